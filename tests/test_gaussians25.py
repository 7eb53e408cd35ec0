"""The 25-Gaussians example, at a length that shows that all works."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_regularizers import __version__

SCRIPT = Path(__file__).parents[1] / "examples" / "gaussians25.py"
RESULTS = Path(__file__).parents[1] / "docs" / "results"


@pytest.fixture
def gaussians25(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gaussians25

    threads = torch.get_num_threads()
    yield gaussians25
    torch.set_num_threads(threads)  # train takes one


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
        (arm, seed) for arm in ("vanilla", "fixed noise", "diffusion") for seed in (0, 1)
    ]
    for run in report["runs"]:
        assert 0 <= run["modes"] <= 25
        assert 0.0 <= run["good"] <= 1.0
        assert (run["T"] > 0) == (run["arm"] == "diffusion")
    modes = [run["modes"] for run in report["runs"] if run["arm"] == "vanilla"]
    assert report["summary"]["vanilla"]["modes_mean"] == sum(modes) / 2

    for run in report["runs"][::2]:
        repeated = gaussians25.train(run["seed"], 50, lambda: None, **gaussians25.ARMS[run["arm"]])
        del repeated["samples"]
        assert {"arm": run["arm"], **repeated} == run


def test_arms_start_alike_and_differ_by_the_noise(gaussians25):
    for steps, alike in ((0, True), (2, False)):
        runs = [gaussians25.train(0, steps, lambda: None, **noise) for noise in gaussians25.ARMS.values()]
        for one, other in itertools.combinations(runs, 2):
            assert (one["samples"] == other["samples"]).all() == alike


def test_instance_noise_has_its_standard_deviation_and_is_fresh(gaussians25):
    noise = gaussians25.InstanceNoise(0.3)
    x = torch.full((20_000, 2), 5.0)
    added = noise(x) - x
    assert added.mean() == pytest.approx(0.0, abs=0.01)
    assert added.std() == pytest.approx(0.3, rel=0.02)
    assert not torch.equal(noise(x) - x, added)


def test_a_sweep_trains_each_standard_deviation_in_place_of_the_arms(gaussians25, tmp_path):
    argv = ["--quick", "--seeds", "1", "--fixed-std", "0.5,1", "--diffusion-std", "0.5", "--out", str(tmp_path)]
    subprocess.run([sys.executable, str(SCRIPT), *argv], capture_output=True, check=True)
    report = json.loads((tmp_path / "gaussians25.json").read_text())
    arms = report["settings"]["arms"]
    assert arms == {
        "fixed_std 0.5": {"fixed_std": 0.5},
        "fixed_std 1.0": {"fixed_std": 1.0},
        "diffusion_std 0.5": {"diffusion_std": 0.5},
    }
    for run, (arm, noise) in zip(report["runs"], arms.items(), strict=True):
        alone = gaussians25.train(0, 50, lambda: None, **noise)
        assert run == {"arm": arm, **{key: alone[key] for key in ("seed", "modes", "good", "T")}}


@pytest.mark.parametrize(
    ("name", "swept"), [("fixed noise", "gaussians25-fixed-noise.json"), ("diffusion", "gaussians25-diffusion.json")]
)
def test_an_arm_has_the_best_standard_deviation_that_was_tried(gaussians25, name, swept):
    sweep = json.loads((RESULTS / swept).read_text())
    best, _ = max(sweep["summary"].items(), key=lambda arm: (arm[1]["modes_mean"], arm[1]["good_mean"]))
    assert sweep["settings"]["arms"][best] == gaussians25.ARMS[name]
    report = json.loads((RESULTS / "gaussians25.json").read_text())
    measured = [
        [(run["seed"], run["modes"], run["good"], run["T"]) for run in runs if run["arm"] == arm]
        for runs, arm in ((sweep["runs"], best), (report["runs"], name))
    ]
    assert measured[0] == measured[1]


@pytest.mark.parametrize(
    ("name", "swept"),
    [
        ("gaussians25.json", None),
        ("gaussians25-check.json", None),
        ("gaussians25-fixed-noise.json", "fixed_std"),
        ("gaussians25-diffusion.json", "diffusion_std"),
    ],
)
def test_results_were_made_with_the_present_settings(gaussians25, name, swept):
    settings = json.loads((RESULTS / name).read_text())["settings"]
    arms = settings["arms"]
    stds = [std for noise in arms.values() for std in noise.values()]
    assert arms == ({f"{swept} {std}": {swept: std} for std in stds} if swept else gaussians25.ARMS)
    assert settings == json.loads(json.dumps(gaussians25.report_of([], arms, gaussians25.STEPS, 0.0)["settings"]))


def test_what_was_trained_is_written_whatever_becomes_of_the_terminal(gaussians25, tmp_path, monkeypatch):
    def broken(_: list) -> None:
        raise BrokenPipeError

    trained = {"arm": "plain", "seed": 0, "modes": 1, "good": 1.0, "T": 0, "samples": np.zeros((4, 2), np.float32)}
    monkeypatch.setattr(gaussians25, "train_all", lambda *_: [trained])
    out = tmp_path / "[/x] \n"
    gaussians25.main(["--out", str(out)])
    for path in out.iterdir():
        path.unlink()
    monkeypatch.setattr(gaussians25, "tabulate", broken)
    with pytest.raises(BrokenPipeError):
        gaussians25.main(["--out", str(out)])
    assert sorted(path.name for path in out.iterdir()) == ["gaussians25.json", "gaussians25.png"]


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
        (["--fixed-std", "1,0"], "argument --fixed-std: value=0.0 is outside (0, inf)"),
        (["--diffusion-std", "1,x"], "argument --diffusion-std: could not convert string to float: 'x'"),
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
