"""The tables of the documentation are those of the result files."""

import importlib.util
import json
import statistics
from dataclasses import asdict
from pathlib import Path

from gan_regularizers.demo.settings import Settings

DOCS = Path(__file__).parent.parent / "docs"


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
    """The rows of docs/gaussians25.md, from one of its result files."""
    report = json.loads((DOCS / "results" / name).read_text())
    runs = {(run["seed"], run["arm"]): run for run in report["runs"]}
    rows = []
    for seed in sorted({seed for seed, _ in runs}):
        vanilla, diffusion = runs[seed, "vanilla"], runs[seed, "diffusion"]
        modes_and_good = " | ".join(f"{run['modes']} | {run['good']:.1%}" for run in (vanilla, diffusion))
        rows.append(f"| {seed} | {modes_and_good} | {diffusion['T']} |")
    means = (report["summary"][arm] for arm in ("vanilla", "diffusion"))
    cells = (f"{m['modes_mean']:.1f} ± {m['modes_sd']:.1f} | {m['good_mean']:.1%} ± {m['good_sd']:.1%}" for m in means)
    return [*rows, f"| mean ± sd | {' | '.join(cells)} | |"]


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
    for name in ("gaussians25.json", "gaussians25-check.json"):
        for row in gaussians_rows(name):
            assert row in text


def test_demo_table():
    text = (DOCS / "demo.md").read_text()
    for row in demo_rows():
        assert row in text


def test_the_demo_was_made_with_its_present_settings():
    for seed in range(3):
        saved = json.loads((DOCS / "results" / f"demo-seed{seed}.json").read_text())["settings"]
        assert saved == asdict(Settings(seed=seed))


def test_benchmark_tables():
    path = DOCS.parent / "benchmarks" / "tables.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for path, text in tables.pages().items():
        assert path.read_text() == text
