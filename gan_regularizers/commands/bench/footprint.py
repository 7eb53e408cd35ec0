"""Kernel launches and peak memory of a call."""

import contextlib
import gc
import json
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .timing import Call


def kernel_launches(call: Call, device: str) -> int | None:
    """The kernels that a warm call launches on a CUDA device; None on the CPU, or if the profiler sees no device."""
    if device != "cuda":
        return None
    events = _trace(call, [ProfilerActivity.CPU, ProfilerActivity.CUDA])
    # The host's records, since the profiler can lose the device's (pytorch/pytorch#192021).
    calls = [event for event in events if event.get("cat") in ("cuda_runtime", "cuda_driver")]
    launches = {event["args"]["correlation"] for event in calls if re.match(r"cu(da)?Launch\w*Kernel", event["name"])}
    return len(launches) if calls else None


def peak_bytes(call: Call, device: str) -> int:
    """The most memory that a warm call holds at once in torch's allocator, beyond what was held before it."""
    with _without_garbage():
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            return torch.cuda.max_memory_allocated() - before
        events = _trace(call, [ProfilerActivity.CPU], profile_memory=True)
    # The profiler's own sum also falls by what it once saw at the address of a block that it did not see allocated.
    held: dict[int, int] = {}
    peak = 0
    for block in (event["args"] for event in events if event.get("name") == "[memory]"):
        if block["Bytes"] > 0:
            held[block["Addr"]] = block["Bytes"]
            peak = max(peak, sum(held.values()))
        else:
            held.pop(block["Addr"], None)
    return peak


def _trace(call: Call, activities: list[ProfilerActivity], **options: Any) -> list[dict[str, Any]]:
    """The events of a call, in their order in time."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        with _held_back_interrupt(), profile(activities=activities, **options) as profiler:
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return sorted(events, key=lambda event: event.get("ts", 0))


@contextlib.contextmanager
def _without_garbage() -> Iterator[None]:
    """Keep the collector from freeing, in the middle of a call, what others have left."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _held_back_interrupt() -> Iterator[None]:
    """Let Ctrl-C, which the main thread alone hears, wait: a profiler stopped half-way takes the process with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: heard.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard.is_set():
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the profiler's C++ says on stderr."""
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
