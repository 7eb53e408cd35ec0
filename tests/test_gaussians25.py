"""The 25-Gaussians example, at a length that shows that all works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan_regularizers import __version__

SCRIPT = Path(__file__).parents[1] / "examples" / "gaussians25.py"


@pytest.fixture
def gaussians25(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gaussians25

    return gaussians25


def test_quick_writes_both_files_and_repeats(gaussians25, tmp_path):
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path / "all")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Modes found of 25" in done.stdout
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["gaussians25.json", "gaussians25.png"]
    assert (tmp_path / "all" / "gaussians25.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "all" / "gaussians25.json").read_text())
    assert report["versions"]["gan_regularizers"] == __version__
    assert report["versions"]["torch"] == torch.__version__
    assert report["settings"]["steps"] == 50
    assert [(run["arm"], run["seed"]) for run in report["runs"]] == [
        (arm, seed) for arm in ("vanilla", "diffusion") for seed in (0, 1)
    ]
    for run in report["runs"]:
        assert 0 <= run["modes"] <= 25
        assert 0.0 <= run["good"] <= 1.0
        assert (run["T"] > 0) == (run["arm"] == "diffusion")
    modes = [run["modes"] for run in report["runs"] if run["arm"] == "vanilla"]
    assert report["summary"]["vanilla"]["modes_mean"] == sum(modes) / 2

    threads = torch.get_num_threads()
    for run in report["runs"][::2]:
        try:
            repeated = gaussians25.train(run["arm"], run["seed"], 50, lambda: None)
        finally:
            torch.set_num_threads(threads)
        del repeated["samples"]
        assert repeated == run


def test_real_samples_find_every_mode_and_one_mode_finds_one(gaussians25):
    real = gaussians25.sample_reals(gaussians25.EVAL_SAMPLES)
    measured = gaussians25.measure(real)
    assert measured["modes"] == 25
    assert measured["good"] == pytest.approx(0.989, abs=0.005)  # 1 - exp(-9 / 2), in two dimensions
    corner = gaussians25.MODE_CENTRES[:1].expand(gaussians25.EVAL_SAMPLES, 2)
    assert gaussians25.measure(corner) == {"modes": 1, "good": 1.0}
    assert gaussians25.measure(corner + 4 * gaussians25.MODE_STD) == {"modes": 0, "good": 0.0}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seeds", "0"], "argument --seeds: value=0.0 is outside [1, inf)"),
        (["--steps", "ten"], "argument --steps: could not convert string to float: 'ten'"),
        (["--out", str(SCRIPT)], "File exists"),
        (["--size", "3"], "unrecognized arguments: --size 3"),
    ],
)
def test_a_wrong_option_is_one_line(gaussians25, argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        gaussians25.main(argv)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
