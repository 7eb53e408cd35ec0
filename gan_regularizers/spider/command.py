"""The command ``gan-regularizers neighbours``: features, ranking, table, picture and numbers."""

import json
import math
import os
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

from .. import __version__
from ..errors import CommandError
from ..files import check_output, write_atomically
from . import curves
from .features import extract, feature_space
from .neighbours import CERTAIN, Neighbour, friendly_neighbours


def cache_folder() -> Path:
    """Where features are kept: ``gan-regularizers`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gan-regularizers"


def start(
    target: Path,
    sources: Sequence[Path],
    features: str,
    device: str,
    cache: Path,
    json_path: Path | None,
    chart: Path,
    seed: int,
    settings: dict[str, Any],
    console: Console,
) -> list[Neighbour]:
    """Rank folders or zips of images by their friendliness to another; see ``friendly_neighbours``."""
    check_output("--chart", chart, ".png")
    if json_path is not None:
        check_output("--json", json_path, ".json")
    _check_distinct(target, sources)
    _make_cache(cache)
    space = feature_space(features, device)
    kept = {}
    with _progress(console) as progress:
        for path in (target, *sources):
            task = progress.add_task(escape(_shown(path)), total=None)

            def watched(batches: Iterable[Tensor], total: int, task: Any = task) -> Iterator[Tensor]:
                progress.update(task, total=total, completed=0)
                for batch in batches:
                    yield batch
                    progress.advance(task, len(batch))

            kept[path] = extract(path, space, cache=cache, device=device, progress=watched)
            progress.update(task, total=len(kept[path]), completed=len(kept[path]))
    try:
        names = [_shown(source.resolve().name) for source in sources]
        if len(set(names)) < len(names):
            names = [_shown(source) for source in sources]
        candidates = {name: kept[source] for name, source in zip(names, sources, strict=True)}
        neighbours = friendly_neighbours(kept[target], candidates, seed=seed, **settings)
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from error

    target_name = _shown(target.resolve().name)
    console.print(_table(neighbours, space.name, f"{target_name} ({len(kept[target]):,} images)"))
    console.print(f"± is {CERTAIN:g} standard errors. The friendliest, of the smallest |CSID|, comes first.")
    if _close(neighbours):
        console.print("The first two are too near each other to tell which is friendlier.")
    curves.save(chart, neighbours, space.name, target_name)
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
    written = " and ".join(str(path) for path in (chart, json_path) if path is not None)
    console.print(f"Wrote {written}", markup=False, highlight=False, soft_wrap=True)
    return neighbours


def _check_distinct(target: Path, sources: Sequence[Path]) -> None:
    seen = {target.resolve(): "the TARGET"}
    for source in sources:
        if before := seen.get(source.resolve()):
            raise CommandError(f"SOURCE {source} is {before} too; leave it out")
        seen[source.resolve()] = "another SOURCE"


def _make_cache(folder: Path) -> None:
    """Before any work, since the features would be lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--cache {folder} cannot be made ({error.strerror}); name another folder") from error
    if not os.access(folder, os.W_OK):
        raise CommandError(f"--cache {folder}: no permission to write there; name another folder")


def _shown(path: Path | str) -> str:
    """A name as it can be printed, whatever its bytes."""
    return os.fsencode(path).decode(errors="replace")


def _table(neighbours: Sequence[Neighbour], metric: str, target: str) -> Table:
    table = Table(
        title=escape(f"Neighbours of {target}"), title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("")
    table.add_column("source", overflow="fold")
    for name in ("images", f"CSID-{metric}", "±"):
        table.add_column(name, justify="right")
    table.add_column("beside the target it is")
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
    )
