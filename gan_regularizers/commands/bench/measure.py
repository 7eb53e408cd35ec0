"""All figures of one case."""

import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from ...io.errors import CommandError
from . import timing
from .cases import AUTOTUNED, CLONE, COMPILED, OURS, REPLAYED, Subject
from .footprint import kernel_launches, peak_bytes
from .settings import Settings, shape_name


def measure(
    subject: Subject, mode: str, calls: dict[str, timing.Call], settings: Settings, say: Callable[[str], None]
) -> dict[str, Any]:
    """Warm the competitors up, profile them and time them; returns the case's record for the JSON file."""
    device = settings.device
    launches: dict[str, int | None] = {}
    peaks: dict[str, int] = {}
    failures: dict[str, str] = {}

    def fail(name: str, error: Exception) -> None:
        """Leave out a competitor that cannot do this, such as torch.compile a second derivative, and say why."""
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if name in (OURS, REPLAYED, CLONE):
            raise CommandError(f"{name} on {shape_name(subject.shape)} {subject.dtype}: {reason}") from error
        failures[name] = reason

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler and of other people's code
        for name, call in calls.items():
            say("compiling" if name in (COMPILED, AUTOTUNED) else f"warming up {name}")
            try:
                timing.warm_up(call)
                launches[name] = kernel_launches(call, device)
                peaks[name] = peak_bytes(call, device)
            except Exception as error:
                fail(name, error)
        say("timing")
        able = {name: call for name, call in calls.items() if name not in failures}
        times = timing.take_turns(able, device, settings.seconds, fail)

    copied = subject.floor_bytes("forward")  # a copy reads and writes what one pass does
    copy_rate = copied / times[CLONE].median
    threads = torch.get_num_threads() if device == "cpu" else None
    competitors: dict[str, dict[str, Any]] = {}
    for name, timed in times.items():
        rate = (copied if name == CLONE else subject.floor_bytes(mode)) / timed.median
        competitors[name] = {
            "median_s": timed.median,
            "quartiles_s": timed.quartiles,
            "host_median_s": timed.host_median,
            "repeats": len(timed.seconds),
            "host_bound_repeats": timed.host_bound,
            "gb_per_s": rate / 1e9,
            "percent_of_clone": 100 * rate / copy_rate,
            "times_ours": timed.median / times[OURS].median,
            "launches": launches[name],
            "peak_bytes": peaks[name],
            "peak_tensors": peaks[name] / subject.tensor_bytes,
        }
    for name, reason in failures.items():
        competitors[name] = {"median_s": None, "reason": reason}
    return {
        **asdict(subject),
        "mode": mode,
        "threads": threads,
        "floor_bytes": subject.floor_bytes(mode),
        "competitors": competitors,
    }
