"""The command ``gan-regularizers neighbours``: features, ranking, table, picture and numbers."""

import errno
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from ... import __version__
from ...io.errors import CommandError
from ...io.files import cache_folder, check_folder, check_output, write_atomically
from ...io.terminal import can_write, printable
from ...spider.features import extract, feature_space
from ...spider.neighbours import CERTAIN, Neighbour, friendly_neighbours
from . import curves


def start(
    target: Path,
    sources: Sequence[Path],
    features: str,
    device: str,
    cache: Path | None,
    json_path: Path | None,
    chart: Path,
    seed: int,
    settings: dict[str, Any],
    console: Console,
) -> list[Neighbour]:
    """Rank folders or zips of images by their friendliness to another; see ``friendly_neighbours``."""
    check_output("--chart", chart, ".png", (target, *sources))
    if json_path is not None:
        check_output("--json", json_path, ".json")
    _check_distinct(target, sources)
    cache = _cache(cache, console)
    space = feature_space(features, device)
    kept = {}
    with _progress(console) as progress, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: console.print(printable(message), markup=False, highlight=False)
        for path in (target, *sources):
            task = progress.add_task(escape(printable(path)), total=None)

            def watched(batches: Iterable[Tensor], total: int, task: Any = task) -> Iterator[Tensor]:
                progress.update(task, total=total, completed=0)
                for batch in batches:
                    yield batch
                    progress.advance(task, len(batch))

            kept[path] = extract(path, space, cache=cache, device=device, progress=watched)
            progress.update(task, total=len(kept[path]), completed=len(kept[path]))
    try:
        names = [printable(source.resolve().name) for source in sources]
        if len(set(names)) < len(names):
            names = [f"{printable(source)} ({i})" for i, source in enumerate(sources, 1)]
        candidates = {name: kept[source] for name, source in zip(names, sources, strict=True)}
        neighbours = friendly_neighbours(kept[target], candidates, seed=seed, **settings)
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from error

    target_name = printable(target.resolve().name)
    try:
        if json_path is not None:
            report = {
                "metric": f"CSID-{space.name}",
                "target": {"name": target_name, "images": len(kept[target])},
                "settings": {**settings, "seed": seed},
                "neighbours": [
                    {"name": n.name, "images": n.count, "verdict": n.verdict, **asdict(n.curve)} for n in neighbours
                ],
                "versions": {"gan_regularizers": __version__, "torch": torch.__version__},
            }
            write_atomically(json_path, (json.dumps(report, indent=1) + "\n").encode())
        curves.save(chart, neighbours, space.name, target_name)
    finally:  # a disk that is full now is no reason to lose the ranking
        _print_ranking(console, neighbours, space.name, f"{target_name} ({len(kept[target]):,} images)")
    written = " and ".join(printable(path) for path in (chart, json_path) if path is not None)
    console.print(f"Wrote {written}", markup=False, highlight=False, soft_wrap=True)
    return neighbours


def _check_distinct(target: Path, sources: Sequence[Path]) -> None:
    seen = {os.path.realpath(target): "the TARGET"}  # which takes links that lead in a circle, as resolve() does not
    for source in sources:
        if before := seen.get(os.path.realpath(source)):
            raise CommandError(f"SOURCE {source} is {before} too; leave it out")
        seen[os.path.realpath(source)] = "another SOURCE"


def _cache(given: Path | None, console: Console) -> Path | None:
    """A folder that can be written to, before any work: the features would be lost.

    One that nobody asked for may be missing, as on a machine without a home.
    """
    folder = given or cache_folder()
    try:
        if folder is None:
            raise FileNotFoundError(errno.ENOENT, "no home is known for this user")
        folder.mkdir(parents=True, exist_ok=True)
        check_folder(folder)
    except OSError as error:
        if given is not None:
            raise CommandError(f"--cache {given}: {error.strerror}; name another folder") from error
        said = f"Features are not kept ({folder or 'the cache'}: {error.strerror}); --cache names another folder."
        console.print(printable(said), markup=False, highlight=False, soft_wrap=True)
        return None
    return folder


def _print_ranking(console: Console, neighbours: Sequence[Neighbour], metric: str, target: str) -> None:
    sign = "±" if can_write("±", console.encoding) else "+-"
    console.print(_table(neighbours, metric, target, sign))
    console.print(f"{sign} is {CERTAIN:g} standard errors. The friendliest, of the smallest |CSID|, comes first.")
    if _close(neighbours):
        console.print("The first two are too near each other to tell which is friendlier.")


def _table(neighbours: Sequence[Neighbour], metric: str, target: str, sign: str) -> Table:
    table = Table(
        title=escape(f"Neighbours of {target}"), title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("", overflow="fold")  # a figure that is cut off, as by default, would be another one
    table.add_column("source", overflow="fold")
    for name in ("images", f"CSID-{metric}", sign):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("beside the target it is", overflow="fold")
    for rank, neighbour in enumerate(neighbours, 1):
        csid, error = neighbour.curve.csid, CERTAIN * neighbour.curve.csid_standard_error
        table.add_row(
            f"{rank}.", escape(neighbour.name), f"{neighbour.count:,}", f"{csid:.4g}", f"{error:.2g}", neighbour.verdict
        )
    return table


def _close(neighbours: Sequence[Neighbour]) -> bool:
    """Whether the second may well be as near as the first."""
    if len(neighbours) < 2:
        return False
    first, second = (neighbour.curve for neighbour in neighbours[:2])
    error = math.hypot(first.csid_standard_error, second.csid_standard_error)
    return abs(second.csid) - abs(first.csid) < CERTAIN * error


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
