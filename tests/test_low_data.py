"""The low-data experiment: its measures, its trainer alone and on two ranks, and the whole of it in short."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from gan_regularizers import regularizer_of

FOLDER = Path(__file__).parents[1] / "benchmarks" / "low_data"
# A script finds the modules beside it, which tests do not let their child processes do otherwise.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
SHORT = ["--kimg", "0.25", "--every", "0.128", "--samples", "8", "--resolution", "16", "--images", "8"]


@pytest.fixture(autouse=True)
def low_data(monkeypatch):
    """Its modules lie beside each other, as its scripts find them."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder with 40 pictures of noise."""
    folder = tmp_path_factory.mktemp("pictures")
    numbers = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    for i, image in enumerate(numbers):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(pictures, cache, tmp_path):
    """A short run in this process; returns the lines that it wrote, but for the seconds."""
    import train

    def run(*options: str, out: Path = tmp_path / "run") -> list[dict]:
        train.main(["--data", str(pictures), "--cache", str(cache), "--out", str(out), *SHORT, *options])
        return lines(out)

    return run


def lines(folder: Path) -> list[dict]:
    read = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read]


def test_frechet_distance_of_known_sets():
    from measures import frechet_distance

    points = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(points, points) == pytest.approx(0.0, abs=1e-4)
    assert frechet_distance(points, points + 2.0) == pytest.approx(5 * 4.0, rel=1e-4)
    spread = points.double().var(dim=0).sum().item()  # of points and of 3 points the covariances commute
    about_zero = points - points.mean(dim=0)
    assert frechet_distance(about_zero, 3 * about_zero) == pytest.approx((3 - 1) ** 2 * spread, rel=1e-4)


def test_precision_and_recall_of_known_sets():
    from measures import share_within

    generator = torch.Generator().manual_seed(0)
    near, far = torch.randn(50, 4, generator=generator), 100 + torch.randn(50, 4, generator=generator)
    both = torch.cat([near[:25], far[:25]])
    assert share_within(near, near) == 1.0
    assert share_within(far, near) == 0.0
    assert share_within(both, near) == 0.5
    # Three neighbours on a line at 1, 2 and 3: the radius of the point at 0 is 3.
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert share_within(torch.tensor([[-2.9], [-3.1], [6.1], [5.9]]), line) == 0.5


def test_copies_are_told_from_new_samples():
    from measures import share_nearer

    generator = torch.Generator().manual_seed(0)
    train, held_out, new = torch.randn(3, 400, 3, generator=generator)
    assert share_nearer(train[:100] + 1e-4, train, held_out) == 1.0
    assert share_nearer(held_out[:100] + 1e-4, train, held_out) == 0.0
    assert share_nearer(new, train, held_out) == pytest.approx(0.5, abs=0.1)
    assert share_nearer(new, train, held_out[:40]) == pytest.approx(0.5, abs=0.1)  # at equal sizes
    assert share_nearer(train[40:], train, held_out[:40]) == pytest.approx(0.5, abs=0.1)  # so not of all that is copied


def test_distance_within_known_points():
    from measures import distance_within

    assert distance_within(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) == pytest.approx(10 / 3)


def test_images_are_split_once_for_all(pictures, tmp_path):
    from reals import Source, load

    fewer, more = (load(Source(pictures), count, 8, 16, tmp_path / "cache") for count in (5, 12))
    assert torch.equal(fewer.train, more.train[:5])
    assert torch.equal(fewer.held_out, more.held_out)
    parts = [more.train, more.held_out, more.others]
    assert [len(part) for part in parts] == [12, 8, 8]
    assert len({image.numpy().tobytes() for part in parts for image in part}) == 28
    assert more.train_features.shape == (12, 1280)


def test_features_are_kept_for_the_images_that_they_are_of(pictures, tmp_path, monkeypatch):
    import reals

    copied = tmp_path / "pictures"
    shutil.copytree(pictures, copied)
    first = reals.load(reals.Source(copied), 8, 8, 16, tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(reals, "Lite0Features", lambda: pytest.fail("the features are kept"))
        again = reals.load(reals.Source(copied), 8, 8, 16, tmp_path / "cache")
    assert torch.equal(first.held_out_features, again.held_out_features)
    for path in copied.iterdir():
        Image.new("RGB", (16, 16), "red").save(path)
    assert reals.load(reals.Source(copied), 8, 8, 16, tmp_path / "cache").train.unique().tolist() == [0, 255]


def test_images_are_the_same_wherever_they_lie(pictures, tmp_path, monkeypatch):
    from reals import Source

    shutil.copytree(pictures, tmp_path / "elsewhere" / "pictures")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Source(Path("pictures")).digest == Source(pictures).digest
    (tmp_path / "elsewhere" / "pictures" / "00.png").rename("pictures/40.png")
    assert Source(Path("pictures")).digest != Source(pictures).digest


def test_a_held_out_set_of_its_own(pictures, tmp_path):
    from reals import Source, load

    red = tmp_path / "red"
    red.mkdir()
    for i in range(8):
        Image.new("RGB", (16, 16), "red").save(red / f"{i}.png")
    reals = load(Source(pictures, red), 40, 8, 16, tmp_path / "cache")
    assert [len(reals.train), len(reals.held_out), len(reals.others)] == [40, 4, 4]
    assert reals.held_out.unique().tolist() == [0, 255]


def test_a_run_writes_its_lines_and_repeats(train, tmp_path):
    header, *evaluations = train("--arm", "diffaug+diffusion")
    assert header["settings"]["arm"] == "diffaug+diffusion"
    assert header["arm"]["policy"] == "color,translation,cutout"
    assert header["held_out"] == 8
    assert header["floor"].keys() == {"kid", "fd", "precision", "recall", "copied", "diversity"}
    assert [line["kimg"] for line in evaluations] == [0.128, 0.256]
    assert all(np.isfinite(list(line.values())).all() for line in evaluations)
    with np.load(tmp_path / "run" / "samples.npz") as samples:
        assert samples["generated"].shape == samples["nearest"].shape == (8, 3, 16, 16)
    assert train("--arm", "diffaug+diffusion", out=tmp_path / "again") == [header, *evaluations]
    assert train("--arm", "diffaug+diffusion", "--seed", "1", out=tmp_path / "other")[1:] != evaluations


def test_learning_rate_and_steps_are_settings(train, tmp_path):
    header, *evaluations = train("--arm", "diffusion")
    other, *slower = train("--arm", "diffusion", "--learning-rate", "0.0001", out=tmp_path / "slower")
    _, *twice = train("--arm", "diffusion", "--d-steps", "2", out=tmp_path / "twice")
    assert other["settings"] == header["settings"] | {"learning_rate": 1e-4}
    assert [line["kimg"] for line in twice] == [line["kimg"] for line in evaluations]
    assert evaluations != slower != twice
    assert max(line["p"] for line in twice) > max(line["p"] for line in evaluations)  # D has seen twice as many


def test_each_setting_has_folders_of_its_own():
    from train import Settings

    assert Settings("none", "hands", 100).name == "hands-100-none-0"
    assert Settings("bare", "hands", 100, 20, learning_rate=0.003, d_steps=4).name == "hands-100-bare-20-lr0.003-d4"
    assert Settings("none", "hands", 100, width=2, precision="bfloat16").name == "hands-100-none-0-w2-bfloat16"


def test_r1_is_part_of_the_arm(train, tmp_path, monkeypatch):
    import train as script

    penalised = []
    step = script.Training._step_of_D
    monkeypatch.setattr(
        script.Training, "_step_of_D", lambda self, penalised: step(self, note(penalised)), raising=True
    )

    def note(flag):
        penalised.append(flag)
        return flag

    train("--arm", "none", "--d-steps", "2")
    assert penalised == [i % script.R1_INTERVAL == 0 for i in range(32)]
    penalised.clear()
    train("--arm", "bare", out=tmp_path / "bare")
    assert not any(penalised)


@pytest.mark.filterwarnings("ignore::gan_regularizers.adaptive_t.StatisticWarning")
def test_a_run_ends_where_its_numbers_do(train, tmp_path):
    import report

    header, *evaluations = train("--arm", "bare", "--learning-rate", "1e38")
    assert evaluations == [{"kimg": 0.128, "finite": False}]
    assert (tmp_path / "run" / "samples.npz").exists()
    assert train("--arm", "bare", "--learning-rate", "1e38") == [header, *evaluations]
    (run,) = report.read(tmp_path / "run" / "run.jsonl")
    assert not report.finite(run)
    assert report.comparable([run], header["settings"]) == []


def test_a_stopped_run_goes_on_to_the_same_numbers(train, tmp_path, monkeypatch):
    import train as script

    whole = train("--arm", "diffusion", out=tmp_path / "whole")
    step = script.Training.step
    with monkeypatch.context() as patched:

        def stop_at_12(training):
            if training.iteration == 12:
                raise KeyboardInterrupt
            return step(training)

        patched.setattr(script.Training, "step", stop_at_12)
        with pytest.raises(KeyboardInterrupt):
            train("--arm", "diffusion")
    assert len(lines(tmp_path / "run")) == 2
    assert train("--arm", "diffusion") == whole


def test_a_run_that_was_stopped_while_trained_further_is_not_finished(train, tmp_path, monkeypatch):
    import train as script

    train("--arm", "none")
    assert (tmp_path / "run" / "samples.npz").exists()

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script.Training, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        train("--arm", "none", "--kimg", "0.384")
    assert not (tmp_path / "run" / "samples.npz").exists()


def test_a_finished_run_stays_as_it_is(train, tmp_path):
    first = train("--arm", "none")
    before = (tmp_path / "run" / "run.jsonl").stat().st_mtime_ns
    assert train("--arm", "none") == first
    assert (tmp_path / "run" / "run.jsonl").stat().st_mtime_ns == before


def test_a_finished_run_is_trained_further(train, tmp_path):
    """To the numbers of a run that was as long from the beginning."""
    from gan_regularizers.io.errors import CommandError

    short = train("--arm", "diffaug")
    header, *evaluations = train("--arm", "diffaug", "--kimg", "0.384")
    assert evaluations[:2] == short[1:]
    assert [header, *evaluations] == train("--arm", "diffaug", "--kimg", "0.384", out=tmp_path / "long")
    assert len(evaluations) == 3
    with pytest.raises(CommandError, match=r"longer than --kimg 0.25 already"):
        train("--arm", "diffaug")


def test_another_run_in_one_folder_is_refused(train, tmp_path):
    from gan_regularizers.io.errors import CommandError

    before = train("--arm", "none")
    with pytest.raises(CommandError, match=r"holds a run with arm none, not diffaug; choose another --out"):
        train("--arm", "diffaug")
    assert lines(tmp_path / "run") == before
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(CommandError, match=r"checkpoint.pt cannot be read; delete it"):
        train("--arm", "none")


def test_too_few_images(train):
    from gan_regularizers.io.errors import CommandError

    with pytest.raises(CommandError, match=r"has 20 images to train on and 20 held out; --images 21 is too many"):
        train("--arm", "none", "--images", "21")


def test_held_out_images_are_not_those_to_train_on(pictures):
    from reals import Source

    from gan_regularizers.io.errors import CommandError

    with pytest.raises(CommandError, match=r"needs --data"):
        Source(None, pictures)
    with pytest.raises(CommandError, match=r"is --data itself; leave it out"):
        Source(pictures, pictures)


@pytest.mark.parametrize(
    "arm",
    [
        "none",
        "diffaug",
        "diffusion",
        "diffaug+diffusion",
        "untold",
        "scale-shift",
        "t-raw",
        "t-raw-0",
        "paper",
        "bare",
        "bare+fixed-0.1",
        "bare+diffusion",
        "bare+diffaug",
    ],
)
def test_arms_are_what_they_are_named_after(arm):
    from arms import ARMS

    D = ARMS[arm].discriminator(16)
    given = {}
    forward = D.forward
    D.forward = lambda x, t=None: given.update(x=x, t=t) or forward(x, t)
    adapt = ARMS[arm].regularize(D)
    assert D(torch.zeros(4, 3, 16, 16)).shape == (4, 1)
    regularizer = regularizer_of(D)
    assert (regularizer.augment is not None) == ("diffaug" in arm)
    assert (adapt is None) == (arm in ("none", "diffaug", "bare", "bare+fixed-0.1", "bare+diffaug"))
    assert (given["t"] is None) == (arm in ("untold", "t-raw-0", "scale-shift"))
    assert (type(D) is type(ARMS["t-raw"].discriminator(16))) == arm.startswith("t-raw")
    assert any("scale_shift" in name for name in D.state_dict()) == (arm == "scale-shift")
    assert (ARMS[arm].r1 == 0) == arm.startswith("bare")
    if arm == "bare+fixed-0.1":
        assert 0.05 < given["x"].std() < 0.15
    if adapt is not None:
        assert adapt.noise is regularizer.noise
        assert adapt.noise.parity == ("paper" if arm == "paper" else "official")


@pytest.mark.parametrize(
    "arm", ["projected", "projected+diffaug", "projected+diffusion", "projected+both", "projected+pixels"]
)
def test_where_the_regularizers_of_a_projected_gan_lie(arm):
    from arms import ARMS

    D = ARMS[arm].discriminator(16)
    adapt = ARMS[arm].regularize(D)
    regularizer = regularizer_of(D)
    assert (regularizer.augment is not None) == arm.endswith(("diffaug", "both"))
    assert (regularizer.noise is not None) == arm.endswith("pixels")
    assert (adapt is not None) == arm.endswith(("diffusion", "both", "pixels"))
    if arm.endswith(("diffusion", "both")):
        assert adapt.noise is D.noise
        assert D.noise.per_channel
        images, seen = torch.randn(2, 3, 16, 16), []
        D.across_channels[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        adapt.noise.set_p(1.0)
        for enabled in (True, False):
            D.noise.enabled = enabled
            with regularizer.off():
                D(images)
        assert (seen[0] - seen[1]).std() > 0.1 * seen[1].std()


def test_a_projected_discriminator_sees_by_lite0():
    """Its smallest map, taken on through the rest of the network, is what the whole network makes of the image."""
    from projected import SIDE, Projected

    from gan_regularizers.spider.features import Lite0Features

    D, network = Projected(), Lite0Features().network
    maps = []
    for mix in D.across_channels:
        mix.register_forward_pre_hook(lambda _, args: maps.append(args[0]))
    images = torch.randn(2, 3, SIDE, SIDE)
    assert D(images).shape == (2, 4)
    assert [(each.shape[1], SIDE // each.shape[2]) for each in maps] == [(24, 4), (40, 8), (112, 16), (320, 32)]
    last = network._swish(network._bn1(network._conv_head(maps[-1])))
    torch.testing.assert_close(last, network.extract_features(images))


def test_only_the_heads_of_a_projected_discriminator_are_trained():
    from projected import Projected

    D = Projected()
    trained = {name.split(".")[0] for name, parameter in D.named_parameters() if parameter.requires_grad}
    assert trained == {"heads"}
    before = {name: value.clone() for name, value in D.state_dict().items()}
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    D(images).sum().backward()
    assert images.grad.abs().min(dim=1).values.mean() > 0
    changed = {name.split(".")[0] for name, value in D.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"heads"}  # their statistics
    D.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in D.parameters())
    D.requires_grad_(True).eval()
    assert {name.split(".")[0] for name, parameter in D.named_parameters() if parameter.requires_grad} == trained
    assert not any(module.training for module in D.modules())


def test_a_projected_gan_is_measured_by_another_network_too(train):
    header, *evaluations = train("--arm", "projected+both")
    assert header["floor"].keys() == evaluations[0].keys() & header["floor"].keys()
    assert header["floor"]["kid_lite2"] != header["floor"]["kid"]
    assert all(np.isfinite(list(line.values())).all() for line in evaluations)
    assert evaluations[-1]["T"] > 5


def test_width_and_precision_are_settings(train, tmp_path):
    header, *evaluations = train("--arm", "diffaug+diffusion", "--width", "2", "--precision", "bfloat16")
    other, *exact = train("--arm", "diffaug+diffusion", "--width", "2", out=tmp_path / "exact")
    assert other["settings"] | {"precision": "bfloat16"} == header["settings"]
    assert evaluations != exact
    for line, close in zip(evaluations, exact, strict=True):
        assert line["D_loss"] == pytest.approx(close["D_loss"], rel=0.05)
    sizes = [
        torch.load(tmp_path / "exact" / "checkpoint.pt", weights_only=True)[name][f"{of}.0.weight"].shape
        for name, of in (("G", "convs"), ("D", "downs"))
    ]
    assert sizes == [(128, 256, 3, 3), (64, 3, 4, 4)]


def run_rank(rank: int, folder: str, pictures: Path, cache: Path) -> None:
    sys.path.insert(0, str(FOLDER))
    from reals import Source, load
    from train import Settings, Training

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=Path(folder, "meeting").as_uri(), rank=rank, world_size=2)
    try:
        reals = load(Source(pictures), 8, 8, 16, cache)
        training = Training(Settings("diffaug+diffusion", "pictures", 8, resolution=16), reals, torch.device("cpu"))
        shown = [training.step()["D_loss"].item() for _ in range(8)]
        # G's buffers are the batch statistics of each rank.
        states = {"D": training.D.state_dict(), "G": dict(training.G.named_parameters())}
        bare = Training(Settings("none", "pictures", 8, resolution=16), reals, torch.device("cpu"))
        bare.step()
        gradients = [parameter.grad for parameter in bare.D.parameters()]
        torch.save((shown, states, training.adapt.r_d, gradients), Path(folder, f"{rank}.pt"))
        dist.barrier()  # as ranks() of train.py has it
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this build of torch has no gloo")
class TestTwoRanks:
    def test_they_see_other_images_and_agree(self, pictures, cache, tmp_path):
        torch.multiprocessing.spawn(run_rank, (str(tmp_path), pictures, cache), nprocs=2)
        (shown, states, r_d, gradients), (other_shown, other_states, other_r_d, _) = (
            torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)
        )
        assert shown != other_shown
        assert r_d == other_r_d
        for name in ("D", "G"):
            for key, value in states[name].items():
                torch.testing.assert_close(value, other_states[name][key], rtol=0, atol=0)

        from reals import Source, load
        from train import Settings, Training

        alone = []
        for rank in range(2):
            training = Training(
                Settings("none", "pictures", 8, resolution=16),
                load(Source(pictures), 8, 8, 16, cache),
                torch.device("cpu"),
            )
            training.rank, training.batch = rank, 8
            training.step()
            alone.append([parameter.grad for parameter in training.D.parameters()])
        for together, first, second in zip(gradients, *alone, strict=True):
            torch.testing.assert_close(together, (first + second) / 2)  # R1 too, which acts in the first step

    def test_under_torchrun_the_first_one_writes(self, pictures, cache, tmp_path):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += [FOLDER / "train.py", "--arm", "diffusion", "--data", pictures, "--cache", cache, *SHORT]
        command += ["--out", tmp_path / "run"]
        for _ in range(2):  # the second time there is nothing left to do
            done = subprocess.run(
                [*command, "--out", tmp_path / "run"], env=ENVIRONMENT, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done.stderr
        header, *evaluations = lines(tmp_path / "run")
        assert header["ranks"] == 2
        assert [line["kimg"] for line in evaluations] == [0.128, 0.256]


def test_quick_study(pictures, tmp_path):
    import report
    from arms import MAIN

    command = [sys.executable, FOLDER / "study.py", "--quick", "--data", pictures, "--images", "8", "--out", tmp_path]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "At the end of training" in done.stdout
    report.draw_summary(report.read(tmp_path / "low-data.jsonl"), tmp_path / "summary.png")
    for name in ("curves.png", "outputs.png", "samples.png", "summary.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 50
    written = [json.loads(line) for line in (tmp_path / "low-data.jsonl").read_text().splitlines()]
    headers = [line for line in written if "settings" in line]
    assert sorted(header["settings"]["arm"] for header in headers) == sorted(MAIN)
    assert len(written) == len(MAIN) * (1 + 2)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*")}
    (tmp_path / "runs" / "stopped").mkdir()
    (tmp_path / "runs" / "stopped" / "run.jsonl").write_text("one line of an unfinished run")
    subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=True, timeout=300)
    shutil.rmtree(tmp_path / "runs" / "stopped")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*")}


def test_a_study_says_which_runs_failed(pictures, tmp_path):
    command = [sys.executable, FOLDER / "study.py", "--quick", "--data", pictures, "--images", "21", "--arms", "none"]
    done = subprocess.run([*command, "--out", tmp_path], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"study.py: {pictures.name}-21-none-0: train.py: ")
    assert line.endswith("--images 21 is too many")


def test_a_study_goes_on_from_results_without_folders(pictures, tmp_path):
    """And trains the combinations that they lack."""
    command = [sys.executable, FOLDER / "study.py", "--quick", "--data", pictures, "--images", "8", "--arms", "bare"]
    command += ["--seed-first", "20", "--results", tmp_path / "grid.jsonl"]

    def study(out: str, *options: str) -> list[str]:
        done = subprocess.run([*command, *options, "--out", tmp_path / out], env=ENVIRONMENT, capture_output=True)
        assert done.returncode == 0, done.stderr
        return [path.parent.name for path in (tmp_path / out).glob("runs/*/run.jsonl")]

    name = f"{pictures.name}-8-bare-20"
    assert study("first", "--learning-rates", "0.001") == [name]
    first = (tmp_path / "grid.jsonl").read_text()
    assert study("second", "--learning-rates", "0.001,0.01") == [f"{name}-lr0.01"]
    assert (tmp_path / "grid.jsonl").read_text().startswith(first)
    assert study("third", "--learning-rates", "0.001,0.01") == []


def test_runs_of_other_settings_are_left_out():
    import report
    from train import Settings

    settings = asdict(Settings("none", "hands", 100))
    changes = ({}, {"kimg": 84.0}, {"arm": "diffaug"}, {"learning_rate": 1e-2}, {"d_steps": 4}, {"width": 2})
    changes += ({"precision": "bfloat16"},)
    runs = [{"settings": settings | changed, "evaluations": [{"kid": 1.0}]} for changed in changes]
    assert report.comparable(runs, settings) == [runs[0], runs[2]]


def grid_run(
    seed: int, *kids: float, arm: str = "bare", diversity: float = 0.9, logit: float = 1.0, **settings
) -> dict:
    """A run on the portraits with these KIDs."""
    from report import MEASURES, OUTPUTS
    from train import Settings

    measures = {**dict.fromkeys((*MEASURES, *OUTPUTS), logit), "diversity": diversity}
    return {
        "settings": asdict(Settings(arm, "portraits", 300, seed, **settings)),
        "floor": {"kid": -0.2, "fd": 2.0, "precision": 0.5, "recall": 0.25, "copied": 0.5, "diversity": 1.0},
        "evaluations": [measures | {"kid": kid} for kid in kids],
    }


def test_outcomes():
    from when import outcome

    assert outcome(grid_run(20, 900.0, 600.0)) == "survived"
    assert outcome(grid_run(20, 600.0, 901.0)) == "diverged"
    assert outcome(grid_run(20, 900.0, 600.0, logit=-101.0)) == "diverged"
    assert outcome(grid_run(20, 900.0, 600.0, diversity=0.4)) == "collapsed"
    assert outcome(grid_run(20, 1900.0, 1800.0)) == "stalled"
    broken = grid_run(20, 900.0)
    assert outcome(broken | {"evaluations": [*broken["evaluations"], {"kimg": 8.0, "finite": False}]}) == "diverged"


def test_the_map_of_a_grid(tmp_path):
    import when

    runs = [grid_run(20, 500.0), grid_run(21, 400.0, 700.0), grid_run(22, 600.0), grid_run(20, 600.0, arm="none")]
    runs += [grid_run(20, 500.0, diversity=0.1, learning_rate=0.01, d_steps=4)]
    first, second, third, real = when.stability_rows(runs)
    assert [row["arm"] for row in (first, second, third, real)] == ["bare", "none", "bare", "*real images*"]
    assert first["survived"] == "2 of 3"
    assert first["failed"] == "1 diverged"
    assert first["KID-lite0 x 1000"] == "550 ± 71"
    assert third["learning rate"] == "0.01"
    assert third["failed"] == "1 collapsed"
    assert third["KID-lite0 x 1000"] == ""
    when.draw_map(runs, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_the_lowest_of_each_run():
    import when

    runs = [grid_run(20, 500.0, 300.0, 400.0, arm="none"), grid_run(21, 200.0, 300.0, 600.0, arm="none")]
    for run in runs:
        for i, entry in enumerate(run["evaluations"], 1):
            entry["kimg"] = 20.0 * i
    row, real = when.lowest_rows(runs)
    assert row["KID-lite0 x 1000"] == "500 ± 141"
    assert row["lowest KID-lite0"] == "250 ± 71"
    assert row["at kimg"] == "30 ± 14"
    assert real["lowest KID-lite0"] == real["at kimg"] == ""


def test_tables_have_means_and_floors():
    import report

    runs = [
        {
            "settings": {"data": "hands", "images": 100, "arm": arm, "seed": seed},
            "floor": {"kid": -0.2, "fd": 2.0, "precision": 0.5, "recall": 0.25, "copied": 0.5},
            "evaluations": [
                dict.fromkeys(report.MEASURES, 0.0),
                {**dict.fromkeys(report.MEASURES, 1.0), "kid": 100.0 + 10 * seed},
            ],
        }
        for arm in ("diffaug", "none")
        for seed in (2, 0)
    ]
    none, diffaug, real = report.rows(runs)
    assert [row["arm"] for row in (none, diffaug, real)] == ["none", "diffaug", "*real images*"]
    assert none["KID-lite0 x 1000"] == "110 ± 14"
    assert none["seeds"] == "2"
    assert real["KID-lite0 x 1000"] == "0"
    assert real["T"] == ""


def test_measures_that_some_runs_lack(tmp_path):
    """KID-lite2 stands where D sees images by lite0, and nowhere else."""
    import report

    run = grid_run(20, 900.0, 800.0, arm="projected") | {"floor": {"kid": 1.0, "kid_lite2": 2.0}}
    for i, entry in enumerate(run["evaluations"]):
        entry["kimg"] = 4.0 * i
    row, real = report.rows([run])
    assert (row["KID-lite2 x 1000"], real["KID-lite2 x 1000"]) == ("1", "2")
    report.draw_curves([run], tmp_path / "curves.png", ("projected",), ("kid_lite2", "kid"))
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.height < picture.width * 1.5
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50
    for entry in run["evaluations"]:
        del entry["kid_lite2"]
    row, real = report.rows([run])
    assert "KID-lite2 x 1000" not in row.keys() | real.keys()


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("train", ["--arm", "nothing", "--out", "x"], "argument --arm: invalid choice: 'nothing'"),
        ("train", ["--arm", "none", "--out", "x", "--kimg", "0"], "argument --kimg: value=0.0 is outside (0, inf)"),
        ("study", ["--images", "100,two"], "argument --images: could not convert string to float: 'two'"),
        ("study", ["--arms", "none,ada"], "'ada'"),
    ],
)
def test_a_wrong_option_is_one_line(script, options, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = __import__(script)
    with pytest.raises(SystemExit) as stopped:
        module.main(options)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_gap_by_t_of_a_discriminator_that_knows_its_images(train, pictures, cache, tmp_path, capsys):
    import gap_by_t

    *_, last = train("--arm", "diffusion", "--kimg", "4", "--every", "4")
    options = ["--data", str(pictures), "--cache", str(cache), "--json", str(tmp_path / "gap.json")]
    gap_by_t.main([str(tmp_path / "run"), *options])
    assert "Means over 1 runs" in capsys.readouterr().out
    rows = json.loads((tmp_path / "gap.json").read_text())["rows"]
    assert [row["t / T"] for row in rows] == list(gap_by_t.SHARES)
    assert rows[0]["gap"] == pytest.approx(last["D_train"] - last["D_held_out"], abs=1e-3)  # without noise
    assert rows[0]["train"] > 0.9

    from gan_regularizers.io.errors import CommandError

    train("--arm", "untold", out=tmp_path / "untold")
    with pytest.raises(CommandError, match="one with noise alone, whose D is told t, is needed"):
        gap_by_t.main([str(tmp_path / "untold"), *options])
    with pytest.raises(CommandError, match="holds no finished run"):
        gap_by_t.main([str(tmp_path / "none"), *options])
