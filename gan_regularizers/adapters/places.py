"""Where our lines belong in a checkout of a GAN repository, by the structure of its code.

The launcher and the patcher share this description: the launcher inserts the lines as Python reads the files, the
patcher writes them. Nothing of the checkout is imported or run here.
"""

import ast
import itertools
import platform
import re
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import CodeType

from ..io.errors import CommandError

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

_REMEDY = " (not found? pip install gan-regularizers)"
_CONTROLLER = {"augment_kwargs", "augment_p", "ada_target", "ada_kimg"}
_SWITCHES = {"conv2d_gradfix.enabled", "grid_sample_gradfix.enabled"}
_LAUNCHES = {"training_loop", "launch_training", "setup_training_loop_kwargs"}
_NO_CODE = (SyntaxError, ValueError, RecursionError, MemoryError)  # what parsing a file may raise
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # as Python counts lines


class NoPlaceError(CommandError):
    """A place that a file lacks: what was looked for, and what is there instead."""


@dataclass(frozen=True)
class Insertion:
    """A line of ours: after which line of the original it goes, and its text with indentation and mark."""

    after: int
    line: str


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
        ast.parse(self.original, filename)  # for its warnings, with their lines
        tree = _parse(self.inserted())
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
    package = _read(root, DNNLIB)
    imports = [node for node in package.imports if getattr(node, "module", None) != "__future__"]
    if not imports:
        raise NoPlaceError(f"{DNNLIB} has no import, above the first of which a line belongs")
    code = f"from gan_regularizers.adapters import modern_torch  {MARK}{_REMEDY}"  # which a traceback shows
    return package.change(package.before(imports[0], code))


def of_loops(root: Path, script: str = TRAIN) -> list[Change]:
    """The line of each training loop that a script calls, by which it trains on current PyTorch.

    Raises:
        NoPlaceError: one of them has no place for it.
    """
    return [_of_loop(loop, function) for loop, function in _loops_of(root, script)]


def of_script(root: Path, script: str = TRAIN) -> Change:
    """The lines by which a training script takes the options of the regularizers.

    Raises:
        NoPlaceError: it lacks one of the places, or has a name or an option of ours; its loop is of an unknown kind.
    """
    train = _read(root, script)
    launch = _find_launch(train)
    command = launch.command
    options = [node for node in command.decorator_list if _called(node).endswith(".option")]
    imports = [node for node in train.imports if node.lineno < command.lineno]
    if not options or not imports:
        what = "no import" if options else "no click.option"
        raise NoPlaceError(f"{script} has {what} above {command.name}()")
    constants = (node.value for option in options for node in ast.walk(option) if isinstance(node, ast.Constant))
    if own := next((name for name in constants if name in ("--reg", "--spider")), None):
        raise NoPlaceError(f"{script} has an option {own} of its own; rename it")
    if "regularizers" in train.names:
        raise NoPlaceError(f"{script} calls something of its own regularizers, as our line does; rename it")
    code = f"from gan_regularizers.adapters import {adapter_of(root, script)} as regularizers"
    return train.change(
        train.after(imports[-1], code),
        train.after(options[-1], "@regularizers.options"),
        launch.configured(train),
    )


def trains(root: Path, script: str) -> bool:
    """Whether a script calls what launches training, or names a training_loop() that it calls."""
    try:
        train = _read(root, script)
    except NoPlaceError:  # it is no code, which is for Python to say
        return False
    return bool(train.loops) or any(call.split(".")[-1] in _LAUNCHES for call in train.calls)


def loop_paths(root: Path, script: str = TRAIN) -> list[str]:
    """The files of the training loops that a script calls, which are there."""
    if not (root / script).is_file():
        return [LOOP]
    globs = [f"{loop.replace('.', '/').replace('{}', '*')}.py" for loop in _read(root, script).loops]
    found = [path for glob in globs for path in sorted(root.glob(glob))]
    paths = [path.relative_to(root).as_posix() for path in found if b"def training_loop(" in path.read_bytes()]
    return list(dict.fromkeys(paths)) or [LOOP]


def adapter_of(root: Path, script: str = TRAIN) -> str:
    """The adapter for a checkout, one of ``ADAPTERS``, by what its training loop and its script do.

    Raises:
        NoPlaceError: the training loop does not build D and the loss by their class names.
    """
    loop, function = _loops_of(root, script)[0]
    given = _arguments(function)
    attributes = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    names = {node.value for node in ast.walk(_read(root, script).tree) if isinstance(node, ast.Constant)}
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


def remove(content: bytes, path: str = "") -> bytes:
    """A file without our lines, marked or not, wherever they are and however they were formatted.

    Raises:
        NoPlaceError: a line of ours, in the file of that path, has something else in it or around it.
    """
    mark, lines = _lines(content)
    ours = _ours(content, lines, path)
    if not ours:
        return content
    for first, last in sorted(ours, reverse=True):
        del lines[first - 1 : last]
    without = mark + b"".join(lines)
    if _is_code(content) and not _is_code(without):
        raise NoPlaceError(f"{path} would be no code without our lines; take what was put around them out by hand")
    return without


class _Source:
    """A Python file of a checkout, without our lines."""

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self.content = remove(content, path)
        try:
            self.tree = _parse(self.content)
        except _NO_CODE as error:
            raise NoPlaceError(f"{path} is no code of Python {platform.python_version()}: {error}") from None

    @property
    def imports(self) -> list[ast.Import | ast.ImportFrom]:
        """At the top level."""
        return [node for node in self.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]

    @property
    def packages(self) -> set[str]:
        """Names of packages that the file imports outside of functions, as it calls them."""
        found = [node for node, _ in _statements(self.tree.body) if isinstance(node, ast.Import)]
        return {(name.asname or name.name).partition(".")[0] for node in found for name in node.names}

    @property
    def names(self) -> set[str]:
        """All names of variables, functions, classes and imports."""
        found = {getattr(node, "id", getattr(node, "arg", getattr(node, "name", None))) for node in ast.walk(self.tree)}
        aliases = {node.asname for node in ast.walk(self.tree) if isinstance(node, ast.alias)}
        return {name.partition(".")[0] for name in found | aliases if name}

    @cached_property
    def calls(self) -> list[str]:
        """All that is called, by the names that the file has for it."""
        return [_called(node) for node in ast.walk(self.tree) if isinstance(node, ast.Call)]

    @cached_property
    def loops(self) -> list[str]:
        """The modules whose training_loop() is called by a name or has its name in a string."""
        imported = dict(self._imported())
        found = [
            full + call.removeprefix(name)
            for call in self.calls
            for name, full in imported.items()
            if f"{call}.".startswith(f"{name}.")
        ]
        strings = [node.value for node in ast.walk(self.tree) if isinstance(node, ast.Constant)]
        found += [text for text in strings if isinstance(text, str) and re.fullmatch(r"[\w.{}]+", text)]
        return [name.removesuffix(".training_loop") for name in found if name.endswith(".training_loop")]

    def _imported(self) -> Iterator[tuple[str, str]]:
        """Names, and what is imported under them."""
        folder = Path(self.path).parent.parts
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((name.asname or name.name, name.name) for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = folder[: len(folder) + 1 - node.level] if node.level else ()
                module = [*above, *([node.module] if node.module else [])]
                yield from ((name.asname or name.name, ".".join([*module, name.name])) for name in node.names)

    @cached_property
    def lines(self) -> list[bytes]:
        return _lines(self.content)[1]

    def before(self, node: ast.expr | ast.stmt, code: str) -> Insertion:
        """A line above a statement or decorator."""
        return self._insertion(node, node.lineno - 1, code)

    def after(self, node: ast.expr | ast.stmt, code: str) -> Insertion:
        """A line below a statement or decorator."""
        rest = self.lines[node.end_lineno - 1][node.end_col_offset :].strip()
        if rest.startswith(b";"):
            raise NoPlaceError(
                f"{self.path}, line {node.end_lineno}, goes on behind a semicolon; give that a line of its own"
            )
        return self._insertion(node, node.end_lineno, code)

    def change(self, *insertions: Insertion) -> Change:
        """All that goes in."""
        return Change(self.path, self.content, tuple(sorted(insertions, key=lambda insertion: insertion.after)))

    def _insertion(self, node: ast.expr | ast.stmt, after: int, code: str) -> Insertion:
        indentation = re.match(rb"[ \t\f]*", self.lines[node.lineno - 1])[0].decode()
        decorator = self.lines[node.lineno - 1][: node.col_offset].strip() == b"@"
        if len(indentation) != node.col_offset and not decorator:
            raise NoPlaceError(
                f"{self.path}, line {node.lineno}, has more than one statement; give each a line of its own"
            )
        above = self.lines[after - 1] if after else b"\n"
        if not re.search(rb"(?<!\\)[\r\n]+$", above):
            raise NoPlaceError(f"{self.path}, line {after}, does not end there; end it with a newline alone")
        return Insertion(after, f"{indentation}{code}" + f"  {MARK}" * (MARK not in code))


_source = lru_cache(maxsize=16)(_Source)  # several questions are asked of one file


def _read(root: Path, path: str) -> _Source:
    try:
        return _source(path, (root / path).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise NoPlaceError(f"there is no {path}") from None


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
        if isinstance(self.statement, ast.Expr):  # which launches training
            return train.before(self.statement, code)
        return train.after(self.within or self.statement, code)


def _loops_of(root: Path, script: str) -> list[tuple[_Source, ast.FunctionDef]]:
    """Each training_loop() that a script calls, and its file."""
    found = []
    for loop in [_read(root, path) for path in loop_paths(root, script)]:
        functions = {node.name: node for node in loop.tree.body if isinstance(node, ast.FunctionDef)}
        if "training_loop" not in functions:
            raise NoPlaceError(f"{loop.path} has no function training_loop(); it has {_listed(functions)}")
        found.append((loop, functions["training_loop"]))
    return found


def _of_loop(loop: _Source, function: ast.FunctionDef) -> Change:
    if "dnnlib" not in loop.packages:
        raise NoPlaceError(f"{loop.path} does not import dnnlib")
    code = "device = dnnlib.modern_torch.prepare(device)"
    before = list(itertools.takewhile(lambda statement: not isinstance(statement, ast.While), function.body))
    chosen = [statement for statement in before if _sets_device(statement) or _switches(statement)]
    if not any(map(_sets_device, chosen)) and "device" not in _arguments(function):
        raise NoPlaceError(f"training_loop() in {loop.path} sets no device")
    if chosen:
        return loop.change(loop.after(chosen[-1], code))
    return loop.change(loop.before(function.body[ast.get_docstring(function) is not None], code))


def _arguments(function: ast.FunctionDef) -> set[str]:
    given = function.args
    return {argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)}


def _sets_device(statement: ast.stmt) -> bool:
    """Whether a statement, or one in it, sets ``device``."""
    return "device" in _set_by(statement)


def _switches(statement: ast.stmt) -> bool:
    """Whether a statement sets ``conv2d_gradfix.enabled`` or ``grid_sample_gradfix.enabled``."""
    return not _SWITCHES.isdisjoint(_set_by(statement))


def _set_by(statement: ast.stmt) -> set[str]:
    """What a statement, or one in it, assigns to, in this function."""
    assigned = [inner for inner, _ in _statements([statement]) if isinstance(inner, ast.Assign)]
    targets = [target for inner in assigned for target in inner.targets]
    parts = [part for target in targets for part in getattr(target, "elts", [target])]
    return {ast.unparse(part) for part in parts}


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
        instead = " and ".join(sorted(train.packages & {"argparse", "hydra", "fire", "absl"})) or "none"
    raise NoPlaceError(f"{train.path}: looked for {looked_for}, found {instead}")


def _launches(command: ast.FunctionDef, functions: dict[str, ast.FunctionDef]) -> list[_Launch]:
    """The calls in a command and in the functions of its file that it calls; launch_training() before all others."""
    reached, launches, setups = [command], [], []
    for function in reached:
        for statement, within in _statements(function.body):
            match statement:
                case ast.Expr(ast.Call() as call) if _called(call).split(".")[-1] == "launch_training":
                    named = {keyword.arg: keyword.value for keyword in call.keywords}
                    given = named | dict(zip(("c", "desc"), call.args, strict=False))
                    match given.get("c"), given.get("desc"):
                        case ast.Name(args), ast.Name(desc):
                            launches.append(_Launch(command, statement, args, desc, None))
                case ast.Assign([ast.Tuple([ast.Name(desc), ast.Name(args)])], ast.Call() as call) if (
                    _called(call).split(".")[-1] == "setup_training_loop_kwargs"
                ):
                    # What comes after it in its try may be the training.
                    last = within is not None and within.body[-1] is statement
                    setups.append(_Launch(command, statement, args, desc, within if last else None))
            for node in ast.walk(statement):
                called = functions.get(_called(node)) if isinstance(node, ast.Call) else None
                if called is not None and called not in reached:
                    reached.append(called)
    return launches or setups


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


def _parse(content: bytes) -> ast.Module:
    """The tree, without warnings: Python gives them when it comes to the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(content)


def _is_code(content: bytes) -> bool:
    try:
        _parse(content)
    except _NO_CODE:
        return False
    return True


def _ours(content: bytes, lines: list[bytes], path: str) -> set[tuple[int, int]]:
    """First and last line of each statement and decorator of ours."""
    marked = re.compile(rf"\s*{MARK}({re.escape(_REMEDY)})?\s*".encode())
    try:
        tree = _parse(content)
    except _NO_CODE:  # then the marks alone can tell
        return {(i, i) for i, line in enumerate(lines, start=1) if marked.fullmatch(line[line.find(b"#") :])}
    known = _OURS if _IMPORT.search(content) else _OURS_ALONE
    found = set()
    for node in ast.walk(tree):
        simple = isinstance(node, ast.stmt) and not hasattr(node, "body")
        for part in (*getattr(node, "decorator_list", ()), *(node,) * simple):
            first, last = part.lineno, part.end_lineno
            before, behind = lines[first - 1][: part.col_offset].strip(), lines[last - 1][part.end_col_offset :]
            code = ast.unparse(part) if _OUR_NAMES.search(b"".join(lines[first - 1 : last])) else ""
            if marked.fullmatch(behind) or _OLD_COMMENT.search(behind) or known.fullmatch(code):
                if before not in (b"", b"@") or not re.fullmatch(rb"\s*(#.*)?\s*", behind):
                    raise NoPlaceError(
                        f"{path}, line {first}, has more than our statement; give that a line of its own"
                    )
                found.add((first, last))
        if isinstance(node, ast.If) and _OLD_COMMENT.search(content) and ast.unparse(node) == _OLD_CONDITION:
            found.add((node.lineno, node.end_lineno))
    return found


_ALONE = (
    r"from gan_regularizers\.adapters import (modern_torch|efficientnet_lite as timm|\w+ as regularizers)"
    r"|\w+ = dnnlib\.modern_torch\.prepare\(.*\)"
)
_OURS_ALONE = re.compile(_ALONE)
_OURS = re.compile(rf"{_ALONE}|regularizers\.options|\w+ = regularizers\.configure\(.*\)")  # where that name is ours
_OUR_NAMES = re.compile(rb"regularizers|modern_torch|efficientnet_lite")
_IMPORT = re.compile(rb"from gan_regularizers\.adapters import \w+ as regularizers\b")
# Of version 0.1.0, which had no marks, in InsGen.
_OLD_COMMENT = re.compile(rb"# (The heads of a resumed run take gradients already|As DistributedDataParallel has it)\.")
_OLD_CONDITION = "if not torch.distributed.is_initialized():\n    return tensor"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{name}()" for name in names) or "none"
