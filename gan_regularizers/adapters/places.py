"""Where our lines belong in a checkout of a GAN repository, by the structure of its code.

The launcher and the patcher share this description: the launcher inserts the lines as Python reads the files, the
patcher writes them. Nothing of the checkout is imported or run here.
"""

import ast
import platform
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import CodeType

from ..errors import CommandError

MARK = "# gan_regularizers"  # ends each of our lines
DNNLIB, LOOP, TRAIN = "dnnlib/__init__.py", "training/training_loop.py", "train.py"
# Adapters, with the structure that each is for.
ADAPTERS = {
    "stylegan": "training_loop() has an augment_pipe and the controller of its p, as in StyleGAN2-ADA and StyleGAN3",
    "insgen": "training_loop() has contrastive heads, as in InsGen",
    "projected_gan": "D is a ProjectedDiscriminator, as in ProjectedGAN and StyleGAN-XL",
    "diffusion_gan": "training_loop() moves the T of a diffusion of its own, as in Diffusion-GAN",
    "wrapped": "training_loop() has no controller of augmentation, as in R3GAN, so AdaptiveT is it",
}

_CONTROLLER = {"augment_kwargs", "augment_p", "ada_target", "ada_kimg"}
_SWITCHES = {"conv2d_gradfix", "grid_sample_gradfix"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # as Python counts lines


class NoPlaceError(CommandError):
    """A place that a file lacks: what was looked for, and what is there instead."""


@dataclass(frozen=True)
class Insertion:
    """A line of ours: after which line of the original it goes, its text with indentation and mark, where that is."""

    after: int
    line: str
    where: str


@dataclass(frozen=True)
class Change:
    """A file of a checkout, as bytes without our lines, and the lines that go in, in their order."""

    path: str
    original: bytes
    insertions: tuple[Insertion, ...]

    def inserted(self) -> bytes:
        """The file with our lines, which end as their neighbours do; a byte-order mark stays first."""
        mark, lines = _lines(self.original)
        for insertion in reversed(self.insertions):
            neighbour = lines[max(insertion.after - 1, 0)]
            end = neighbour[len(neighbour.rstrip(b"\r\n")) :]
            lines.insert(insertion.after, insertion.line.encode() + end)
        return mark + b"".join(lines)

    def compile(self, filename: str) -> CodeType:
        """The code with our lines, in which all others keep the numbers that they have in the original."""
        tree = ast.parse(self.inserted(), filename)
        ours = [insertion.after + i for i, insertion in enumerate(self.insertions, start=1)]
        for node in ast.walk(tree):
            for name in ("lineno", "end_lineno"):
                if (line := getattr(node, name, None)) is not None:
                    setattr(node, name, line - bisect_left(ours, line))
        return compile(tree, filename, "exec", dont_inherit=True)


def of_package(root: Path) -> Change:
    """The line of ``dnnlib`` by which a checkout runs on current PyTorch, whatever its scripts import.

    Raises:
        NoPlaceError: it has no place for it.
    """
    package = _Source(root, DNNLIB)
    imports = [node for node in package.imports if getattr(node, "module", None) != "__future__"]
    if not imports:
        raise NoPlaceError(f"{DNNLIB} has no import, above the first of which a line belongs")
    code = "from gan_regularizers.adapters import modern_torch"
    return package.change(package.before(imports[0], code, "beside the other imports, above the first"))


def of_loop(root: Path, script: str = TRAIN) -> Change:
    """The line of the training loop that a script calls, by which it trains on current PyTorch.

    Raises:
        NoPlaceError: it has no place for it.
    """
    loop, function = _loop_of(root, script)
    if "dnnlib" not in loop.imported:
        raise NoPlaceError(f"{loop.path} does not import dnnlib")
    code, where = "device = dnnlib.modern_torch.prepare(device)", "in training_loop(), once device is set"
    chosen = [statement for statement in function.body if _sets_device(statement) or _switches(statement)]
    if any(map(_switches, chosen)):
        where = "in training_loop(), below the lines that switch conv2d_gradfix and grid_sample_gradfix on"
    if not any(map(_sets_device, chosen)) and "device" not in _arguments(function):
        raise NoPlaceError(f"training_loop() in {loop.path} sets no device")
    if chosen:
        return loop.change(loop.after(chosen[-1], code, where))
    return loop.change(loop.before(function.body[ast.get_docstring(function) is not None], code, where))


def of_script(root: Path, script: str = TRAIN) -> Change:
    """The lines by which a training script takes the options of the regularizers.

    Raises:
        NoPlaceError: it lacks one of the places, or its training loop is of an unknown kind.
    """
    train = _Source(root, script)
    launch = _find_launch(train)
    command = launch.command
    options = [node for node in command.decorator_list if _called(node).endswith(".option")]
    if not options:
        raise NoPlaceError(f"{script} has no click.option above {command.name}()")
    imports = [node for node in train.imports if node.lineno < command.lineno]
    code = f"from gan_regularizers.adapters import {adapter_of(root, script)} as regularizers"
    return train.change(
        train.after(imports[-1], code, "beside the other imports"),
        train.after(options[-1], "@regularizers.options", f"beside the other options of {command.name}()"),
        launch.configured(train),
    )


def adapter_of(root: Path, script: str = TRAIN) -> str:
    """The adapter for a checkout, one of ``ADAPTERS``, by what its training loop and its script do.

    Raises:
        NoPlaceError: the training loop does not build D and the loss by their class names.
    """
    loop, function = _loop_of(root, script)
    given = _arguments(function)
    attributes = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    names = {node.value for node in ast.walk(_Source(root, script).tree) if isinstance(node, ast.Constant)}
    if any(str(name).endswith(".ProjectedDiscriminator") for name in names):
        return "projected_gan"
    if "update_T" in attributes:
        return "diffusion_gan"
    if "DHead_kwargs" in given:
        return "insgen"
    if given >= _CONTROLLER:
        return "stylegan"
    if given >= {"D_kwargs", "loss_kwargs"}:
        return "wrapped"
    raise NoPlaceError(
        f"training_loop() in {loop.path} takes no D_kwargs and loss_kwargs; it takes {', '.join(sorted(given))}"
    )


def remove(content: bytes) -> bytes:
    """A file without our lines, marked or not, wherever they are and however they were formatted."""
    mark, lines = _lines(content)
    for first, last in sorted(_ours(content, lines), reverse=True):
        del lines[first - 1 : last]
    return mark + b"".join(lines)


class _Source:
    """A Python file of a checkout, without our lines."""

    def __init__(self, root: Path, path: str) -> None:
        self.path = path
        try:
            self.content = remove((root / path).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise NoPlaceError(f"there is no {path}") from None
        try:
            self.tree = ast.parse(self.content)
        except (SyntaxError, ValueError) as error:
            raise NoPlaceError(f"{path} is no code of Python {platform.python_version()}: {error}") from None

    @property
    def imports(self) -> list[ast.Import | ast.ImportFrom]:
        """At the top level."""
        return [node for node in self.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]

    @property
    def imported(self) -> set[str]:
        """Names of packages, as the file calls them."""
        found = [name for node in ast.walk(self.tree) if isinstance(node, ast.Import) for name in node.names]
        return {(name.asname or name.name).partition(".")[0] for name in found}

    @cached_property
    def lines(self) -> list[bytes]:
        return _lines(self.content)[1]

    def before(self, node: ast.expr | ast.stmt, code: str, where: str) -> Insertion:
        """A line above a statement or decorator."""
        return self._insertion(node, node.lineno - 1, code, where)

    def after(self, node: ast.expr | ast.stmt, code: str, where: str) -> Insertion:
        """A line below a statement or decorator."""
        rest = self.lines[node.end_lineno - 1][node.end_col_offset :].strip()
        if rest.startswith(b";"):
            raise NoPlaceError(
                f"{self.path}, line {node.end_lineno}, goes on behind a semicolon; give that a line of its own"
            )
        return self._insertion(node, node.end_lineno, code, where)

    def change(self, *insertions: Insertion) -> Change:
        """All that goes in."""
        return Change(self.path, self.content, tuple(sorted(insertions, key=lambda insertion: insertion.after)))

    def _insertion(self, node: ast.expr | ast.stmt, after: int, code: str, where: str) -> Insertion:
        indentation = re.match(rb"[ \t\f]*", self.lines[node.lineno - 1])[0].decode()
        decorator = self.lines[node.lineno - 1][: node.col_offset].strip() == b"@"
        if len(indentation) != node.col_offset and not decorator:
            raise NoPlaceError(
                f"{self.path}, line {node.lineno}, has more than one statement; give each a line of its own"
            )
        return Insertion(after, f"{indentation}{code}  {MARK}", where)


@dataclass(frozen=True)
class _Launch:
    """The statement by which a command of click launches training, and the names of the arguments and of the run."""

    command: ast.FunctionDef
    statement: ast.stmt
    args: str
    desc: str
    within: ast.Try | None  # which the statement is in, if its names come from setup_training_loop_kwargs()

    def configured(self, train: _Source) -> Insertion:
        code = f"{self.desc} = regularizers.configure({self.args}, {self.desc})"
        if isinstance(self.statement, ast.Expr):
            where = f"once {self.args} and {self.desc} are complete, before training is launched"
            return train.before(self.statement, code, where)
        where = f"once setup_training_loop_kwargs() has given {self.desc} and {self.args}"
        return train.after(self.within or self.statement, code, where)


def _loop_of(root: Path, script: str) -> tuple[_Source, ast.FunctionDef]:
    """The training_loop() that a script calls, and its file."""
    loop = _Source(root, _loop_path(_Source(root, script)) if (root / script).is_file() else LOOP)
    functions = {node.name: node for node in loop.tree.body if isinstance(node, ast.FunctionDef)}
    if "training_loop" not in functions:
        raise NoPlaceError(f"{loop.path} has no function training_loop(); it has {_listed(functions)}")
    return loop, functions["training_loop"]


def _loop_path(train: _Source) -> str:
    imported = {
        name.asname or name.name: f"{node.module}.{name.name}"
        for node in ast.walk(train.tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    calls = [_called(node) for node in ast.walk(train.tree) if isinstance(node, ast.Call)]
    modules = [imported.get(call.removesuffix(".training_loop")) for call in calls if call.endswith(".training_loop")]
    modules += [imported.get(call, "").rpartition(".")[0] for call in calls if call == "training_loop"]
    return next((f"{module.replace('.', '/')}.py" for module in modules if module), LOOP)


def _arguments(function: ast.FunctionDef) -> set[str]:
    given = function.args
    return {argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)}


def _sets_device(statement: ast.stmt) -> bool:
    """Whether a statement, or one in it, sets ``device``."""
    stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return any(node.id == "device" for node in stored)


def _switches(statement: ast.stmt) -> bool:
    """Whether a statement sets ``conv2d_gradfix.enabled`` or ``grid_sample_gradfix.enabled``."""
    nodes = (
        node for node in ast.walk(statement) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    )
    return any(node.attr == "enabled" and ast.unparse(node.value) in _SWITCHES for node in nodes)


def _find_launch(train: _Source) -> _Launch:
    functions = {node.name: node for node in train.tree.body if isinstance(node, ast.FunctionDef)}
    commands = [f for f in functions.values() if any(_called(node).endswith(".command") for node in f.decorator_list)]
    found = [launch for command in commands for launch in _launches(command, functions)]
    if len(found) == 1:
        return found[0]
    looked_for = "one command of click that calls launch_training(c, desc) or setup_training_loop_kwargs()"
    if commands:
        instead = f"{len(found)} such calls in {_listed(command.name for command in commands)}"
    else:
        instead = " and ".join(sorted(train.imported & {"argparse", "hydra", "fire", "absl"})) or "none"
    raise NoPlaceError(f"{train.path}: looked for {looked_for}, found {instead}")


def _launches(command: ast.FunctionDef, functions: dict[str, ast.FunctionDef]) -> Iterator[_Launch]:
    """The calls in a command and in the functions of its file that it calls; launch_training() before all others."""
    reached, setups = [command], []
    for function in reached:
        for statement, within in _statements(function.body):
            match statement:
                case ast.Expr(ast.Call() as call) if _called(call).split(".")[-1] == "launch_training":
                    names = {keyword.arg: keyword.value for keyword in call.keywords} | dict(
                        zip("c desc".split(), call.args, strict=False)
                    )
                    match names.get("c"), names.get("desc"):
                        case ast.Name(args), ast.Name(desc):
                            yield _Launch(command, statement, args, desc, None)
                            return
                case ast.Assign([ast.Tuple([ast.Name(desc), ast.Name(args)])], ast.Call() as call) if (
                    _called(call).split(".")[-1] == "setup_training_loop_kwargs"
                ):
                    setups.append(_Launch(command, statement, args, desc, within))
            for node in ast.walk(statement):
                called = functions.get(_called(node)) if isinstance(node, ast.Call) else None
                if called is not None and called not in reached:
                    reached.append(called)
    yield from setups


def _statements(body: list[ast.stmt], within: ast.Try | None = None) -> Iterator[tuple[ast.stmt, ast.Try | None]]:
    """All statements of a function, with the innermost try that each is in; not those of functions in it."""
    for statement in body:
        yield statement, within
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        inner = statement if isinstance(statement, ast.Try) else within
        for part in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, part, []), inner)
        for handler in getattr(statement, "handlers", []):
            yield from _statements(handler.body, inner)


def _called(node: ast.expr) -> str:
    """Such as ``click.option``, of a call or of a decorator."""
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def _lines(content: bytes) -> tuple[bytes, list[bytes]]:
    """The byte-order mark, if there is one, and the lines with their ends."""
    mark = _BYTE_ORDER_MARK if content.startswith(_BYTE_ORDER_MARK) else b""
    return mark, _LINE.findall(content, len(mark))


def _ours(content: bytes, lines: list[bytes]) -> set[tuple[int, int]]:
    """First and last line of each statement and decorator of ours."""
    marked = re.compile(rb"\s*" + MARK.encode() + rb"\s*")
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # then the marks alone can tell
        return {(i, i) for i, line in enumerate(lines, start=1) if marked.fullmatch(line[line.find(b"#") :])}
    found = set()
    for node in ast.walk(tree):
        simple = isinstance(node, ast.stmt) and not hasattr(node, "body")
        for part in (*getattr(node, "decorator_list", ()), *(node,) * simple):
            behind = lines[part.end_lineno - 1][part.end_col_offset :]
            if marked.fullmatch(behind) or _OLD_COMMENT.search(behind) or _OURS.fullmatch(ast.unparse(part)):
                found.add((part.lineno, part.end_lineno))
        if isinstance(node, ast.If) and _OLD_COMMENT.search(content) and ast.unparse(node) == _OLD_CONDITION:
            found.add((node.lineno, node.end_lineno))
    return found


_OURS = re.compile(
    r"from gan_regularizers\.adapters import (modern_torch|efficientnet_lite as timm|\w+ as regularizers)"
    r"|\w+ = dnnlib\.modern_torch\.prepare\(.*\)"
    r"|regularizers\.options"
    r"|\w+ = regularizers\.configure\(.*\)"
)
# Of version 0.1.0, which had no marks, in InsGen.
_OLD_COMMENT = re.compile(rb"# (The heads of a resumed run take gradients already|As DistributedDataParallel has it)\.")
_OLD_CONDITION = "if not torch.distributed.is_initialized():\n    return tensor"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{name}()" for name in names) or "none"
