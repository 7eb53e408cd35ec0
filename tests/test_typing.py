"""The types that an editor and a type checker see in the package."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gan_regularizers

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def check(tmp_path_factory) -> Callable[[Path], subprocess.CompletedProcess]:
    """Mypy on a file that imports the package. What it makes of torch, which takes it long, it keeps for the next."""
    pytest.importorskip("mypy")
    folder, cwd = Path(gan_regularizers.__file__).parent.parent, tmp_path_factory.mktemp("mypy")
    environment = {**os.environ, "MYPYPATH": "" if folder.name == "site-packages" else str(folder)}
    command = (sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", cwd)

    def run(file: Path) -> subprocess.CompletedProcess:
        return subprocess.run([*command, file], env=environment, cwd=cwd, capture_output=True, text=True)

    return run


def test_the_public_interface_has_types(check):
    done = check(HERE / "typed" / "public_interface.py")
    assert done.returncode == 0, done.stdout + done.stderr
    names = (HERE / "typed" / "public_interface.py").read_text()
    assert not [name for name in gan_regularizers.__all__ if names.count(name) < 2]


def test_a_wrong_use_is_seen(check, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("from gan_regularizers import DiffAugment, wrap\nDiffAugment(cutout='half')\nwrap(3)\n")
    done = check(file)
    assert [line.split(": ")[0].rpartition(":")[2] for line in done.stdout.splitlines()[:-1]] == ["2", "3"], done.stdout
    assert "[arg-type]" in done.stdout


def test_the_package_says_that_it_has_types():
    assert Path(gan_regularizers.__file__).with_name("py.typed").exists()
