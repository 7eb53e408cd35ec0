"""Checkouts of the upstream repositories, patched, trained, resumed and restored: ``pytest -m upstream``.

Each runs in processes of its own, in a copy, through its own train.py; ``driver.py`` makes the networks tiny.
"""

import filecmp
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from gan_regularizers import cli
from gan_regularizers.demo.images import split_portraits

pytestmark = pytest.mark.upstream

DRIVER = Path(__file__).parent / "driver.py"
# D leaves -0.9 soon, so p rises at most moves, by a third.
MOVING = ("--reg-target=-0.9", "--reg-kimg=0.05")
IMAGES = 68  # 17 iterations of 4: R1 in the first and the last, four moves of p
NOISY = ("diffusion", "diffaug+diffusion", "ada+diffusion")


@dataclass(frozen=True)
class Repository:
    """How to train one of them: options of its train.py that are no matter of taste, and the modes of --reg."""

    name: str
    options: tuple[str, ...]
    generate: str
    modes: tuple[str, ...] = ("none", "diffaug", *NOISY)
    needs: tuple[str, ...] = ()


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
        ),
    )
}
CASES = [(name, mode) for name, repository in REPOSITORIES.items() for mode in repository.modes]
STYLEGANS = [name for name in REPOSITORIES if name != "projected_gan"]


@dataclass
class Run:
    """What a run of train.py left."""

    kwargs: dict
    stats: list[dict]
    snapshot: str
    output: str

    def last(self, name: str) -> float:
        return self.stats[-1][name]["mean"]


@dataclass
class Checkout:
    """A patched copy of a repository."""

    repository: Repository
    path: Path
    data: dict[int, Path]
    folder: Path
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

    def train(self, *options: str, images: int = IMAGES, size: int = 32) -> Run:
        result = self.folder / "result.json"
        done = self.python(DRIVER, "train", images, result, *self.options(size), *options)
        return Run(**json.loads(result.read_text()), output=done.stdout)

    def state(self, snapshot: str) -> dict:
        """What a snapshot holds of the noise, in a process of its own."""
        result = self.folder / "state.json"
        self.python(DRIVER, "state", snapshot, result)
        return json.loads(result.read_text())

    def commands(self, *lines: list[str]) -> list[dict]:
        """Exit status and output of several command lines of train.py."""
        result = self.folder / "commands.json"
        self.python(DRIVER, "commands", json.dumps(lines), result)
        return json.loads(result.read_text())

    def python(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads of tiny networks wait for each other
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[int, Path]:
    """Real images of two sizes with labels, as zip files that --data reads."""
    folder = tmp_path_factory.mktemp("data")
    return {size: _zip(folder / f"{size}.zip", size) for size in (32, 128)}


def _zip(path: Path, size: int) -> Path:
    images = split_portraits(size, 16)[0]
    pixels = images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    names = [f"{i:02}.png" for i in range(len(pixels))]
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(names, pixels, strict=True):
            stream = BytesIO()
            Image.fromarray(image).save(stream, "PNG")
            archive.writestr(name, stream.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [[name, i % 3] for i, name in enumerate(names)]}))
    return path


def _original(name: str, root: Path | None) -> Path:
    if root is None:
        pytest.skip("no checkouts; say where they are with --upstream-root DIR")
    if not (root / name / "train.py").exists():
        pytest.skip(f"{root / name} is no checkout")
    for module in REPOSITORIES[name].needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} needs {module}, which is not installed")
    return root / name


@pytest.fixture(scope="session")
def checkouts(request, tmp_path_factory, data):
    """Patched copies by name; a test that asks for one whose checkout is missing is skipped."""
    made = {}

    def checkout(name: str) -> Checkout:
        original = _original(name, request.config.getoption("--upstream-root"))
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            shutil.copytree(original, folder / name, ignore=shutil.ignore_patterns(".git", "__pycache__"))
            assert cli.main(["patch", str(folder / name)]) == 0
            made[name] = Checkout(REPOSITORIES[name], folder / name, data, folder)
        return made[name]

    return checkout


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_trains_resumes_and_generates(checkouts, name, mode):
    checkout = checkouts(name)
    moving = MOVING if mode in NOISY else ()
    run = checkout.train(f"--reg={mode}", *moving)
    if name != "projected_gan":
        assert run.last("Loss/r1_penalty") > 0
    assert all(abs(value["mean"]) < 1e6 for value in run.stats[-1].values() if isinstance(value, dict))

    state = checkout.state(run.snapshot)
    if mode in NOISY:
        assert run.kwargs["run_dir"].endswith(mode.replace("+", "-") + "-first" * (name == "projected_gan"))
        p, T = (next(value for key, value in state.items() if key.endswith(f"noise.{end}")) for end in "pT")
        t_min = 10 if name.startswith("stylegan") else 5
        assert p > 0.5
        assert pytest.approx(T, abs=0.51) == t_min + p * (500 - t_min)
        assert run.last("Progress/augment") > 0
        assert run.last("Progress/augment_T") > 10

    resumed = checkout.train(f"--reg={mode}", *moving, f"--resume={run.snapshot}", images=4)
    after = checkout.state(resumed.snapshot)
    if mode in NOISY:
        assert f"goes on with p = {p:g}, T = {T}" in resumed.output
        for key in state:
            if key.split(".")[-1] in ("p", "T", "t_list", "redraws"):
                assert after[key] == state[key], key
    _generates(checkout, run.snapshot)


def _generates(checkout: Checkout, snapshot: str) -> None:
    out = checkout.folder / "generated"
    shutil.rmtree(out, ignore_errors=True)
    checkout.python(DRIVER, "script", checkout.repository.generate, f"--network={snapshot}", "--seeds=0", f"--outdir={out}")
    image = Image.open(out / "seed0000.png")
    assert image.size == (32, 32)
    assert len(image.getcolors(32 * 32)) > 10


def test_reversing_restores_every_byte(checkouts, request, tmp_path):
    original = request.config.getoption("--upstream-root")
    for name in REPOSITORIES:
        patched = checkouts(name).path
        copy = tmp_path / name
        shutil.copytree(patched, copy)
