"""What lies in the package's folder, and that no part imports what lies above it."""

import ast
from pathlib import Path

import pytest

import gan_regularizers
from gan_regularizers.commands import parser

PACKAGE = Path(gan_regularizers.__file__).parent
FLOORS = (
    ("arguments",),
    ("io",),
    ("kernels",),
    ("ops",),
    ("state",),
    ("picture", "diffaugment", "diffusion_noise", "regularizer"),
    ("hooks",),
    ("wrapping",),
    ("adaptive_t",),
    ("__init__",),
    ("spider",),
    ("adapters",),
    ("commands",),
    ("__main__",),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The parts of the package that a module imports, wherever in it."""
    parts = set()
    folder = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.partition(".")[0] == PACKAGE.name):
            above = folder[: len(folder) - node.level + 1] if node.level else ()
            absolute = (node.module or "").split(".")[not node.level :]
            to = [*above, *filter(None, absolute)]
            parts |= {to[0]} if to else {alias.name if alias.name in FLOOR_OF else "__init__" for alias in node.names}
        elif isinstance(node, ast.Import):
            assert not [alias for alias in node.names if alias.name.startswith(PACKAGE.name)], "say from ... import"
    return parts


def test_every_part_has_its_floor():
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there == {*FLOOR_OF}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_import_points_up(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert not {name for name in imported(path) if FLOOR_OF[name] > FLOOR_OF[part]}


def test_imports_are_found():
    assert imported(PACKAGE / "kernels" / "cubins.py") == {"io", "kernels"}
    assert imported(PACKAGE / "commands" / "demo" / "run.py") == {"__init__", "commands", "io", "ops"}
    assert imported(PACKAGE / "__main__.py") == {"commands"}


def test_each_command_is_one_module():
    commands = parser()._subparsers._group_actions[0].choices
    folder = PACKAGE / "commands"
    assert {*commands} == {path.stem for path in folder.iterdir() if not path.stem.startswith("_")}
    for name, command in commands.items():
        assert command.get_default("command").__module__ == f"gan_regularizers.commands.{name}"
