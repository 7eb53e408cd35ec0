"""Rewrite the tables of docs/performance.md from the files in benchmarks/results::

python benchmarks/tables.py
"""

import json
import os
from pathlib import Path

from gan_regularizers.benchmark import report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- tables.py writes from here -->", "<!-- to here -->"
NO_RESULTS = "No results yet."


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(rewritten(PAGE.read_text(), sorted(RESULTS.glob("*.json"))))


def rewritten(page: str, results: list[Path]) -> str:
    """The page with the tables of these files between its markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks its markers, {BEGIN} and {END}")
    tables = "\n\n".join(map(section, results)) or NO_RESULTS
    return f"{before}{begin}\n\n{tables}\n\n{end}{after}"


def section(path: Path) -> str:
    """A heading, a table with a row per case, and the chart if there is one."""
    result = json.loads(path.read_text())
    if not result["complete"]:
        raise ValueError(f"{path.name} is of a run that was cut short")
    rows = [{"batch": report.batch_name(case), **report.row(case)} for case in result["cases"]]
    lines = [tuple(rows[0]), tuple("---" for _ in rows[0]), *(tuple(row.values()) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [f"### {path.stem}", f"{report.heading(result)}.", table]
    picture = path.with_suffix(".png")
    if picture.exists():
        parts.append(f"![{path.stem}]({Path(os.path.relpath(picture, PAGE.parent)).as_posix()})")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
