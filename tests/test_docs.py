"""The tables of the documentation are those of the result files."""

import json
import statistics
from pathlib import Path

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


def test_demo_table():
    text = (DOCS / "demo.md").read_text()
    for row in demo_rows():
        assert row in text


def test_the_demo_was_made_with_its_present_settings():
    from dataclasses import asdict

    from gan_regularizers.demo.training import Settings

    for seed in range(3):
        saved = json.loads((DOCS / "results" / f"demo-seed{seed}.json").read_text())["settings"]
        assert saved == asdict(Settings(seed=seed))
