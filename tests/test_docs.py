"""The tables of the documentation are those of the result files."""

import importlib.util
import json
import re
import statistics
from dataclasses import asdict
from pathlib import Path

import gan_regularizers
from gan_regularizers import spider
from gan_regularizers.commands.demo.settings import Settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GAUSSIANS_ARMS = ("vanilla", "fixed noise", "diffusion")


def demo_rows() -> list[str]:
    """The table of docs/demo.md, from the result files of its three seeds."""
    results = [json.loads((DOCS / "results" / f"demo-seed{seed}.json").read_text()) for seed in range(3)]
    ends = {arm: [result["history"][arm][-1] for result in results] for arm in ("unregularised", "regularised")}
    rows = []
    for label, key, form in (("KID-lite0 x 1000", "kid", ".0f"), ("gap", "gap", ".2f"), ("T", "T", ".0f")):
        for arm, end in ends.items():
            values = [entry[key] for entry in end]
            cells = " | ".join(format(value, form) for value in values)
            rows.append(f"| {label}, {arm} | {cells} | {statistics.mean(values):{form}} |")
    return rows


def gaussians_rows(name: str) -> list[str]:
    """A table of docs/gaussians25.md by seed, from its result file."""
    report = json.loads((DOCS / "results" / name).read_text())
    runs = {(run["seed"], run["arm"]): run for run in report["runs"]}
    rows = []
    for seed in sorted({seed for seed, _ in runs}):
        cells = (f"{runs[seed, arm]['modes']} | {runs[seed, arm]['good']:.1%}" for arm in GAUSSIANS_ARMS)
        rows.append(f"| {seed} | {' | '.join(cells)} | {runs[seed, 'diffusion']['T']} |")
    cells = (gaussians_means(report["summary"][arm]) for arm in GAUSSIANS_ARMS)
    return [*rows, f"| mean ± sd | {' | '.join(cells)} | |"]


def gaussians_sweep_rows(name: str) -> list[str]:
    """A table of docs/gaussians25.md by standard deviation of one arm's noise, from its result file."""
    report = json.loads((DOCS / "results" / name).read_text())
    rows = []
    for arm, noise in report["settings"]["arms"].items():
        (std,) = noise.values()
        modes = ", ".join(str(run["modes"]) for run in report["runs"] if run["arm"] == arm)
        rows.append(f"| {std} | {modes} | {gaussians_means(report['summary'][arm])} |")
    return rows


def gaussians_means(m: dict[str, float]) -> str:
    return f"{m['modes_mean']:.1f} ± {m['modes_sd']:.1f} | {m['good_mean']:.1%} ± {m['good_sd']:.1%}"


def spider_rows() -> list[str]:
    """The tables of docs/spider.md, from the result files of the example."""
    ranking = json.loads((DOCS / "results" / "spider-neighbours.json").read_text())
    rows = []
    for rank, n in enumerate(ranking["neighbours"], 1):
        csid, error = n["csid"], 2 * n["csid_standard_error"]
        rows.append(f"| {rank}. | {n['name']} | {n['images']} | {csid:.1f} ± {error:.1f} | {n['verdict']} |")
    for name in ("spider.json", "spider-check.json"):
        report = json.loads((DOCS / "results" / name).read_text())
        for arm, row in report["summary"].items():
            ends = " | ".join(f"{kid:.0f}" for kid in row["kid"])
            reached = ", ".join("never" if kimg is None else f"{kimg:.1f}" for kimg in row["kimg_to_reach"])
            rows.append(f"| {arm} | {ends} | {row['kid_mean']:.0f} | {reached} |")
    return rows


def test_spider_tables():
    text = (DOCS / "spider.md").read_text()
    for row in spider_rows():
        assert row in text


def test_gaussians_tables():
    text = (DOCS / "gaussians25.md").read_text()
    tables = [gaussians_rows(f"{name}.json") for name in ("gaussians25", "gaussians25-check")]
    tables += [gaussians_sweep_rows(f"gaussians25-{arm}.json") for arm in ("fixed-noise", "diffusion")]
    for table in tables:
        assert "\n".join(table) in text


def test_evidence_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "low_data"))
    import report
    import when

    for name, tables in (("evidence", report.tables()), ("when", when.tables())):
        page = (DOCS / f"{name}.md").read_text()
        assert report.rewritten(page, tables) == page


def test_figures_of_the_guide_stand_in_the_tables_of_the_evidence():
    pages = [(DOCS / f"{name}.md").read_text() for name in ("evidence", "when")]
    tables = [line for page in pages for line in page.splitlines() if line.startswith("|")]
    figures = re.findall(r"\d+(?:\.\d+)? ± \d+(?:\.\d+)?", (DOCS / "guide.md").read_text())
    assert len(figures) > 10
    for figure in figures:
        assert any(f"| {figure} |" in line for line in tables), figure


def test_demo_table():
    text = (DOCS / "demo.md").read_text()
    for row in demo_rows():
        assert row in text


def test_the_demo_was_made_with_its_present_settings():
    for seed in range(3):
        saved = json.loads((DOCS / "results" / f"demo-seed{seed}.json").read_text())["settings"]
        assert saved == asdict(Settings(seed=seed))


def test_benchmark_tables():
    path = ROOT / "benchmarks" / "tables.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for path, text in tables.pages().items():
        assert path.read_text() == text


def test_the_citation_is_of_this_version():
    (line,) = (line for line in (ROOT / "CITATION.cff").read_text().splitlines() if line.startswith("version: "))
    assert line == f"version: {gan_regularizers.__version__}"


def test_the_commands_of_ci_are_those_that_it_runs():
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## What CI runs")[2].partition("\n##")[0]
    block = section.partition("What it does not run")[0]
    commands = [line.strip() for line in block.splitlines() if line.startswith("    ")]
    assert len(commands) > 5
    assert {*commands} <= {*(ROOT / ".ci" / "run").read_text().splitlines()}


def test_every_public_name_is_in_the_reference():
    pages = {path.stem: path.read_text() for path in (DOCS / "reference").glob("*.md")}
    index = pages.pop("index")
    for module in (gan_regularizers, spider):
        for name in module.__all__:
            assert re.search(rf"^   {name}$", index, re.MULTILINE), name
            assert any(re.search(rf"^\.\. auto\w+:: {name}\b", page, re.MULTILINE) for page in pages.values()), name
