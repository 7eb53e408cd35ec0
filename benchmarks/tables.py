"""Rewrite the tables of docs/performance.md and of the README from the files in benchmarks/results::

python benchmarks/tables.py
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from gan_regularizers.commands.bench import report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- tables.py writes from here -->", "<!-- to here -->"
NO_RESULTS = "No results yet."
README_COLUMNS = ("batch", "ms", "of clone", "eager", "compile", "file", "memory")


def main() -> None:
    """Rewrite both pages."""
    for path, text in pages().items():
        path.write_text(text)


def pages() -> dict[Path, str]:
    """What the pages must say."""
    results = sorted(RESULTS.glob("*.json"))
    machines = [path for path in results if "_" not in path.stem]  # cpu_threads is of one question, cpu of a machine
    contents = {ROOT / "docs" / "performance.md": map(section, results), ROOT / "README.md": map(summary, machines)}
    return {path: rewritten(path.read_text(), parts) for path, parts in contents.items()}


def rewritten(page: str, parts: Iterable[str]) -> str:
    """The page with these parts between its markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks its markers, {BEGIN} and {END}")
    text = "\n\n".join(filter(None, parts)) or NO_RESULTS
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def section(path: Path) -> str:
    """A heading, a table with a row per case, and the chart if there is one."""
    result = _complete(path)
    parts = [f"### {path.stem}", f"{report.heading(result)}.", table(_rows(result["cases"]))]
    picture = path.with_suffix(".png")
    if picture.exists():
        parts.append(f"![{path.stem}]({Path(os.path.relpath(picture, ROOT / 'docs')).as_posix()})")
    return "\n\n".join(parts)


def summary(path: Path) -> str:
    """A short table: all parts together, forward and backward; nothing, if that was not timed."""
    result = _complete(path)
    chosen = [case for case in result["cases"] if (case["part"], case["mode"]) == ("all", "forward+backward")]
    if not chosen:
        return ""
    rows = [{name: row[name] for name in README_COLUMNS if name in row} for row in _rows(chosen)]
    return f"{report.heading(result)}:\n\n{table(rows)}"


def _rows(cases: list[report.Case]) -> list[dict[str, str]]:
    return [{"batch": report.batch_name(case), **row} for case, row in zip(cases, report.rows(cases), strict=True)]


def table(rows: list[dict[str, str]]) -> str:
    """In Markdown."""
    lines = [tuple(rows[0]), tuple("---" for _ in rows[0]), *(tuple(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _complete(path: Path) -> report.Result:
    result = json.loads(path.read_text())
    if not result["complete"]:
        raise ValueError(f"{path.name} is of a run that was cut short")
    return result


if __name__ == "__main__":
    main()
