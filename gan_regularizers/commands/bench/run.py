"""Time every case, show how it goes, and leave the numbers, a table and a chart."""

import datetime
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ...io.errors import CommandError
from ...io.files import check_output, write_atomically
from ...io.terminal import printable
from . import cases, chart, machine, report, timing
from .measure import measure
from .settings import Settings, shape_name

SEED = 0
BUSY_LOAD = 0.5


def start(
    settings: Settings, json_path: Path | None, chart_path: Path | None, official: Path | None, console: Console
) -> None:
    """Run the benchmark; the files hold every case that was finished, also after an error or Ctrl-C."""
    json_path, chart_path = _outputs(json_path, chart_path)
    file = None if official is None else cases.load_official(official)
    keeps_freed_memory = settings.device == "cpu" and timing.keep_freed_memory()
    name, reason = machine.backend(settings.device)
    result: report.Result = {
        "complete": False,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(settings.device),
        "versions": machine.versions(settings.device),
        "backend": {"name": name, "reason": reason},
        "settings": {**asdict(settings), "official_file": file is not None, "seed": SEED},
        "keeps_freed_memory": keeps_freed_memory,
        "cases": [],
    }
    console.print(report.heading(result), markup=False, highlight=False, soft_wrap=True)
    load = result["machine"]["load"]
    if load is not None and load > BUSY_LOAD:
        console.print(f"Other work is running here (load {load:.1f}); the times will show it.")
    try:
        with _progress(console) as progress:
            for case in _measured(settings, name, file, progress):
                result["cases"].append(case)
                _save(json_path, result)
                progress.console.print(report.line(case), markup=False, highlight=False, soft_wrap=True)
        result["complete"] = True
        _save(json_path, result)
    finally:
        if result["cases"]:
            try:
                if chart_path is not None:
                    chart.save(chart_path, result)
            finally:  # a disk that is full now is no reason to lose the figures
                _print_tables(console, result)
            written = " and ".join(printable(path) for path in (json_path, chart_path) if path is not None)
            if written:
                console.print(f"Wrote {written}", markup=False, highlight=False, soft_wrap=True)


def _outputs(json_path: Path | None, chart_path: Path | None) -> tuple[Path | None, Path | None]:
    if chart_path is None and json_path is not None:
        chart_path = json_path.with_suffix(".png")
    for option, path, suffix in (("--json", json_path, ".json"), ("--chart", chart_path, ".png")):
        if path is not None:
            check_output(option, path, suffix)
    return json_path, chart_path


def _measured(settings: Settings, backend: str, file: ModuleType | None, progress: Progress) -> Iterator[report.Case]:
    subjects = list(cases.subjects(settings))
    if not subjects:
        raise CommandError("nothing to time: a feature map has only the parts noise and diffused")
    rounds = list(itertools.product(settings.modes, settings.threads or (torch.get_num_threads(),)))
    task = progress.add_task("", total=len(subjects) * len(rounds), status="")

    def say(status: str) -> None:
        progress.update(task, status=status)

    for subject in subjects:
        torch.manual_seed(SEED)
        try:
            batch = cases.batch(subject, settings.device)
        except RuntimeError as error:  # out of memory
            raise CommandError(f"--shapes {shape_name(subject.shape)}: {str(error).splitlines()[0]}") from error
        transforms = cases.transforms(subject, settings, backend, file)
        for mode, threads in rounds:
            progress.update(task, description=f"{shape_name(subject.shape)} {subject.dtype} {subject.part} {mode}")
            torch.set_num_threads(threads)
            yield measure(subject, mode, cases.calls(mode, transforms, batch), settings, say)
            progress.advance(task)


def _save(path: Path | None, result: report.Result) -> None:
    if path is not None:
        write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=2,  # it takes a core for an instant, which the medians do not see
    )


def _print_tables(console: Console, result: report.Result) -> None:
    shown: dict[str, None] = {}
    for title, group in itertools.groupby(result["cases"], lambda case: f"{report.batch_name(case)}, {case['part']}"):
        rows = report.rows(list(group))
        # A terminal may have but 80 columns.
        columns = [name for name in rows[0] if name not in ("part", "GB/s")]
        shown |= dict.fromkeys(columns)
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for name in columns:
            left = name == "mode"
            header = name.replace("torchvision", "torch vision")
            table.add_column(header, justify="left" if left else "right", no_wrap=left, overflow="fold")
        for row in rows:
            table.add_row(*(row[name].replace("forward+backward", "fwd+bwd") for name in columns))
        console.print(table)
    legend = report.legend(list(shown))
    console.print(legend if result["complete"] else f"{legend} Incomplete.", highlight=False)
    for name, reason in report.not_timed(result["cases"]).items():
        console.print(f"{name} was not timed: {reason}", markup=False, highlight=False, soft_wrap=True)
