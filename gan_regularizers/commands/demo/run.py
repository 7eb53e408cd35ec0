"""Train both arms side by side, show how they do, and leave pictures, figures and numbers."""

import contextlib
import hashlib
import json
import platform
import queue
import shlex
import signal
from collections.abc import Iterator
from dataclasses import asdict, fields
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from ... import __version__, ops
from ...io.errors import CommandError
from ...io.files import check_apart, check_folder, write_atomically
from ...io.terminal import printable
from . import figures, images
from .settings import ARMS, Settings
from .training import SHOWN_SAMPLES, Arm

TRAINING_PORTRAITS = 100
FEW_IMAGES = 50
_POLL_SECONDS = 0.5
_NEXT = """
Next, with your own images, a folder or zip of them:
    gan-regularizers preview IMAGE...
    gan-regularizers demo --data FOLDER --out OUT
With your own D, before its optimiser is built:
    from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, wrap
    wrap(D, DiffAugment(), DiffusionNoise(), tell="scale-shift")
    adapt = AdaptiveT(D)
and where it sees the reals:
    logits = D(real); adapt.observe(logits); adapt.step(len(real))
With a StyleGAN or what was made from one, as it is:
    gan-regularizers run PATH/train.py ... --reg=diffaug+diffusion"""


def start(out: Path, settings: Settings, console: Console) -> None:
    """Begin a run in a new or empty place."""
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is a file; name a folder")
    if out.exists() and any(out.iterdir()):
        raise CommandError(f"--out {out} is not empty; add --resume to continue a run in it, or name another folder")
    check_apart("--out", out, [Path(settings.data)] if settings.data else [])
    try:
        check_folder(next(folder for folder in (out, *out.parents) if folder.exists()))
    except OSError as error:
        raise CommandError(f"--out {out}: {error.strerror}") from error
    sets = _load_images(settings)
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / "settings.json", {**asdict(settings), "images": _digest(sets)})
    _train(out, settings, sets, console)


def resume(out: Path, console: Console) -> None:
    """Continue a run with its own settings, to the numbers of an uninterrupted one."""
    try:
        saved = json.loads((out / "settings.json").read_text())
        settings = Settings(**{field.name: saved[field.name] for field in fields(Settings)})
        digest = saved["images"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CommandError(f"--resume: {out} holds no run ({error}); start one without --resume") from error
    sets = _load_images(settings)
    if _digest(sets) != digest:
        raise CommandError(f"--resume: the images differ from those that the run in {out} began with")
    _train(out, settings, sets, console)


def _load_images(settings: Settings) -> tuple[Tensor, Tensor]:
    if settings.data is None:
        return images.split_portraits(settings.resolution, TRAINING_PORTRAITS)
    return images.split_own(Path(settings.data), settings.resolution)


def _digest(sets: tuple[Tensor, Tensor]) -> str:
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in sets)).hexdigest()


def _train(out: Path, settings: Settings, sets: tuple[Tensor, Tensor], console: Console) -> None:
    train, held_out = sets
    name = printable(settings.data or "twemoji portraits")
    console.print(
        f"Training on {len(train)} images ({name}), measuring against {len(held_out)} held-out ones; "
        f"{settings.kimg:g} kimg at {settings.resolution} px on {settings.device}, seed {settings.seed}.",
        markup=False,
    )
    if len(held_out) < FEW_IMAGES:
        console.print(f"With so few held-out images KID-lite0 is little more than noise; {FEW_IMAGES} are advisable.")
    results = _run_arms(out, settings, sets, console)
    floor = results[ARMS[0]]["floor"]
    histories = {arm: results[arm]["history"] for arm in ARMS}
    samples = {arm: results[arm]["samples"] for arm in ARMS}
    summary = {
        "settings": asdict(settings),
        "images": {"train": len(train), "held_out": len(held_out), "sha256": _digest(sets)},
        "kid_x1000_real_against_real": floor,
        "history": histories,
        "seconds": round(max(result["seconds"] for result in results.values()), 1),
        "versions": {
            "gan_regularizers": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "backend": ops.backend()[0],
        },
    }
    try:
        _write_json(out / "results.json", summary)
        figures.save_samples(out / "samples.png", train[:SHOWN_SAMPLES], samples, histories, floor)
        figures.save_curves(out / "curves.png", histories, floor)
    finally:  # a disk that is full now is no reason to lose the figures
        _print_summary(console, histories, floor)
    console.print(f"Wrote samples.png, curves.png and results.json to {printable(out)}", markup=False, soft_wrap=True)
    console.print(_NEXT, markup=False, highlight=False, soft_wrap=True)


def _run_arms(
    out: Path, settings: Settings, sets: tuple[Tensor, Tensor], console: Console
) -> dict[str, dict[str, Any]]:
    """Train both arms at once, in a process each, and return their results."""
    context = mp.get_context("spawn")
    messages: Queue = context.Queue()
    stop = context.Event()
    threads = max(1, torch.get_num_threads() // len(ARMS))
    arrays = tuple(images.numpy() for images in sets)  # tensors would need shared memory, which containers lack
    workers = {
        arm: context.Process(target=_work, args=(arm, settings, arrays, out, threads, messages, stop), daemon=True)
        for arm in ARMS
    }
    results: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    unheard: OSError | None = None
    running = set(ARMS)
    with _stop_on_interrupt(stop, workers), _progress(console) as progress:
        tasks = {arm: progress.add_task(arm, total=settings.kimg, status="loading") for arm in ARMS}
        while running:
            arm, kind, content = _next_message(messages, workers, running)
            if kind == "report":
                try:
                    progress.update(tasks[arm], completed=content["kimg"], status=_status(content))
                    if "kid" in content:
                        progress.console.print(_measured(arm, content))
                except OSError as error:  # nobody listens any more, as after `| head`
                    unheard = error
                    stop.set()
                continue
            running.remove(arm)
            workers[arm].join()
            if kind == "error":
                failures.append(f"the {arm} arm failed: {content}")
                stop.set()  # the other arm leaves its checkpoint
            if kind == "result":
                results[arm] = content
    if failures:
        raise CommandError("; ".join(failures))
    if unheard is not None:
        raise unheard
    if len(results) < len(ARMS):
        raise CommandError(f"stopped; gan-regularizers demo --resume --out {shlex.quote(str(out))} continues it")
    return results


def _next_message(messages: Queue, workers: dict[str, mp.Process], running: set[str]) -> tuple[str, str, Any]:
    while True:
        with contextlib.suppress(queue.Empty):
            return messages.get(timeout=_POLL_SECONDS)
        for arm in running:
            if not workers[arm].is_alive() and messages.empty():
                return arm, "error", f"its process ended with exit code {workers[arm].exitcode}"


@contextlib.contextmanager
def _stop_on_interrupt(stop: Event, workers: dict[str, mp.Process]) -> Iterator[None]:
    """Start the workers; the first Ctrl-C lets them write their checkpoints, a second one interrupts as usual."""

    def handle(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        with _held_back_interrupts():  # which the workers inherit; the parent tells them when to stop
            for worker in workers.values():
                worker.start()
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _held_back_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until the end of a ``with`` block: a start takes seconds, in which it must not be lost."""
    if not hasattr(signal, "pthread_sigmask"):  # as on Windows, where the workers hear it until they are loaded
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    name: str,
    settings: Settings,
    arrays: tuple[np.ndarray, ...],
    out: Path,
    threads: int,
    messages: Queue,
    stop: Event,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    parent = mp.parent_process()

    def stopped() -> bool:
        """The parent may have been killed, which says nothing."""
        return stop.is_set() or not parent.is_alive()

    if stopped():  # nothing is there that could be lost
        messages.put((name, "stopped", None))
        return
    try:
        arm = Arm(name, settings, *map(torch.from_numpy, arrays))
        checkpoint = out / f"{name}.pt"
        if checkpoint.exists():
            arm.load(checkpoint)
        if not arm.run(checkpoint, lambda report: messages.put((name, "report", report)), stopped):
            messages.put((name, "stopped", None))
            return
        samples = ((arm.samples()[:SHOWN_SAMPLES] + 1) * 127.5).round().byte().cpu().numpy()
        result = {"history": arm.history, "floor": arm.floor, "seconds": arm.seconds, "samples": samples}
        messages.put((name, "result", result))
    except Exception as error:  # whatever it is, the parent says it in one line
        kind = "" if isinstance(error, CommandError) else f"{type(error).__name__}: "
        messages.put((name, "error", f"{kind}{error}"))


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>13}"),
        BarColumn(bar_width=12),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _status(report: dict[str, float]) -> str:
    loss = f"loss D {report['D_loss']:.2f} G {report['G_loss']:.2f}"
    return f"{loss}  r_d {report['r_d']:+.2f}  T {report['T']:3.0f}"


def _measured(arm: str, report: dict[str, float]) -> str:
    state = f"{report['kimg']:5.1f} kimg  r_d {report['r_d']:+.2f}  T {report['T']:3.0f}"
    return f"{arm:>13}  {state}  gap {report['gap']:5.2f}  KID-lite0 {report['kid']:4.0f}"


def _print_summary(console: Console, histories: dict[str, list[dict[str, float]]], floor: float) -> None:
    table = Table(title="At the end of training")
    table.add_column("", overflow="fold")
    for arm in ARMS:
        table.add_column(arm, justify="right", overflow="fold")
    rows = {
        "KID-lite0 x 1000, held-out images": ("kid", ".0f"),
        "gap: D(training) - D(held-out)": ("gap", ".2f"),
        "r_d": ("r_d", ".2f"),
        "T": ("T", ".0f"),
    }
    for label, (key, form) in rows.items():
        table.add_row(label, *(format(histories[arm][-1][key], form) for arm in ARMS))
    console.print(table)
    console.print(f"KID-lite0 x 1000 of the real training images themselves: {floor:.0f} (lower is better)")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
