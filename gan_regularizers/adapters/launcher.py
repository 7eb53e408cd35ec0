"""Runs a script of a checkout as it is, with our lines inserted as Python reads its files: ``gan-regularizers run``.

The script is ``__main__``, as it is for Python, so that arguments, exit status, tracebacks and ranks are its own.
"""

import builtins
import functools
import importlib.util
import multiprocessing.process
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from ..io.errors import CommandError
from ..io.terminal import printable
from . import places
from .places import Change

_SCRIPT = "GAN_REGULARIZERS_SCRIPT"  # in the environment: its path as typed, for the ranks that it spawns
_RANK = f"{__package__}.launched"  # the module that such a rank finds as the main one


def launch(script: str, arguments: Sequence[str]) -> Callable[[], None]:
    """Make ready to run a script of a checkout with its arguments, in this process; returns what runs it.

    Raises:
        CommandError: it is no script of a checkout, or trains in a way that is unknown.
    """
    root, changes = _find(_absolute(script))
    if os.environ.get("RANK", "0") == "0":  # under torchrun each rank comes here
        what = f"{printable(script)} {_description(root, changes)}"
        print(f"gan-regularizers: running {what}", file=sys.stderr, flush=True)
    return lambda: _run(script, arguments)


def _run(script: str, arguments: Sequence[str]) -> None:
    os.environ[_SCRIPT] = script
    sys.argv = [script, *arguments]
    folder = str(Path(_absolute(script)).resolve().parent)
    if getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, folder)  # which Python would not; but without it no script of a checkout runs
    else:
        sys.path[0] = folder
    sys.excepthook = _from_the_script_on
    main = ModuleType("__main__")
    main.__spec__ = importlib.util.find_spec(_RANK)
    sys.modules["__main__"] = main
    exec(become(vars(main)), vars(main))


def become(namespace: dict[str, Any]) -> CodeType:
    """Make the namespace of a main module that of the script, and insert our lines into what is imported from here on.

    Returns:
        The code to execute in it.
    """
    script = _absolute(os.environ[_SCRIPT])
    root, found = _find(script)
    changes = {os.path.realpath(root / change.path): change for change in found}
    namespace.update(__file__=script, __package__=None, __builtins__=builtins)
    sys.argv[0] = os.environ[_SCRIPT]
    sys.meta_path.insert(0, _Finder(changes))
    change = changes.get(os.path.realpath(script)) or Change(script, Path(script).read_bytes(), ())
    return change.compile(script)


def _absolute(script: str) -> str:
    """The path as Python shows it: below the folder that the first process started in, and as it was typed."""
    return script if Path(script).is_absolute() else f"{multiprocessing.process.ORIGINAL_DIR or '.'}{os.sep}{script}"


@functools.cache
def _find(path: str) -> tuple[Path, list[Change]]:
    """The checkout that a script is in, and the lines that go into it."""
    script = Path(os.path.realpath(path))  # as Python does to find what is beside it
    if not script.is_file():
        what = "is a folder; name the script in it, such as train.py" if script.is_dir() else "does not exist"
        raise CommandError(f"{path} {what}")
    root = next((folder for folder in script.parents if (folder / places.DNNLIB).exists()), None)
    if root is None:
        raise CommandError(f"{path} is in no checkout: there is no {places.DNNLIB} beside it or in a folder above it")
    name = script.relative_to(root).as_posix()
    if not places.trains(root, name):
        return root, [places.of_package(root)]
    return root, [places.of_package(root), *places.of_loops(root, name), places.of_script(root, name)]


def _description(root: Path, changes: list[Change]) -> str:
    if len(changes) == 1:
        return "with what it needs of current PyTorch"
    return f"with --reg: {places.ADAPTERS[places.adapter_of(root, changes[-1].path)]}"


class _Finder:
    """Finds the files of a checkout that have lines of ours, before Python's own finders do."""

    def __init__(self, changes: Mapping[str, Change]) -> None:
        self.changes = changes
        paths = [Path(change.path) for change in changes.values()]
        self.names = {
            ".".join((path.parent if path.stem == "__init__" else path.with_suffix("")).parts) for path in paths
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self.names else None
        change = self.changes.get(os.path.realpath(spec.origin)) if spec is not None and spec.origin else None
        if change is None:
            return None
        spec.loader = _Loader(name, spec.origin, change)
        return spec


class _Loader(SourceFileLoader):
    """Loads a file with our lines; no compiled file knows of them."""

    def __init__(self, name: str, path: str, change: Change) -> None:
        super().__init__(name, path)
        self.change = change

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """Compile the file, whatever was compiled before."""
        return self.change.compile(self.path)


def _from_the_script_on(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Show a traceback without the frames above the script, as if Python had run it."""
    script, inside = getattr(sys.modules["__main__"], "__file__", None), traceback
    while inside is not None and inside.tb_frame.f_code.co_filename != script:
        inside = inside.tb_next
    if inside is not None or (isinstance(error, SyntaxError) and error.filename == script):
        traceback = inside
    sys.__excepthook__(kind, error.with_traceback(traceback), traceback)
