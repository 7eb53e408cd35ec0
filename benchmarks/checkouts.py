"""What comes of public checkouts of GAN repositories under the launcher and the patcher, as a table.

::

    python benchmarks/checkouts.py FOLDER --out docs/upstream/checkouts.md

FOLDER holds checkouts as OWNER+NAME: clones, or plain copies, whose commits a file commits.txt there has in lines
"OWNER/NAME COMMIT". In a copy each trains tiny networks on a CPU for 17 batches of 4 images, through its own train.py:
as it is, by the launcher, and patched. Outcomes are kept as JSON lines, with which an interrupted run goes on.
"""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import interpolate

from gan_regularizers.adapters import patching, places
from gan_regularizers.io.errors import CommandError
from gan_regularizers.io.files import write_atomically
from gan_regularizers.io.options import Parser, whole_number

TINY = Path(__file__).resolve().parents[1] / "tests" / "upstream" / "tiny"
REG = ("--reg=diffusion", "--reg-target=-0.9", "--reg-kimg=0.05")  # D leaves -0.9 soon, so T moves
IMAGES, BATCH, SIDE, FASTGAN_SIDE = 68, 4, 32, 128
CACHES = (".git", "__pycache__")
# Runs a script as Python does, with what current PyTorch breaks in it mended.
MODERN = """
import runpy, sys
import gan_regularizers.adapters.modern_torch
sys.argv.pop(0)
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Of options of train.py; of any other that is required, the first choice.
VALUES = {"--gpus": "1", "--batch": str(BATCH), "--gamma": "1", "--metrics": "none", "--preset": "CIFAR10"}
CONFIGURATIONS = ("stylegan2", "sg2", "auto")  # the first that --cfg has
# Though their commands do not say so.
NEEDED = {
    "EzioBy/glead": ["--reg_type=none", "--gpus=2"],
    "Mid-Push/i-stylegan": ["--i_dim=16"],
    "autonomousvision/stylegan-xl": ["--cfg=stylegan3-t"],
    "eps696/stylegan2ada": ["--kimg=1"],
    "naver-ai/GGDR": ["--reg_type=none", "--gpus=2"],
}
ENDS = (0, 3)  # exit statuses; 3 is ProjectedGAN's before the end of --kimg
LARGE = {"543877815/stylegan3": 256}  # its networks begin there
PATH = re.compile(r"(?<![\w/])/(?:[\w.+-]+/)+")  # folders of this machine
ERROR = re.compile(r"(?:[\w.]+(?:Error|Exception|Exit|Interrupt|Quit)|Error|gan-regularizers(?!: running))(?::.*)?")


@dataclass
class Row:
    """What came of a checkout; an empty word where it did not come so far."""

    repository: str
    folder: str
    commit: str
    adapter: str = ""
    dry_run: str = ""
    launched: str = ""  # the mean of T over the moves in the last tick
    unchanged: bool = False
    patched: str = ""
    reversed: bool = False
    why: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, str]:
        """By which outcomes are found again."""
        return self.repository, self.folder, self.commit


@dataclass(frozen=True)
class Done:
    """What a process came to."""

    status: int | None  # None: it took too long
    output: str

    @cached_property
    def error(self) -> str:
        """The last line that names one."""
        if self.status is None:
            return "takes longer than the limit"
        lines = [line.strip() for line in self.output.splitlines()]
        found = [line for line in lines if ERROR.fullmatch(line)] or lines[-1:] or ["no output"]
        if missing := re.match(r"ModuleNotFoundError: No module named '([\w.]+)'", found[-1]):
            return f"lacks module {missing[1]}"
        return found[-1]


class Trial:
    """A checkout in a temporary copy."""

    def __init__(self, original: Path, work: Path, seconds: int, repository: str) -> None:
        self.repository = repository
        self.tree, self.out, self.work, self.seconds = work / "checkout", work / "runs", work, seconds
        shutil.copytree(original, self.tree, ignore=shutil.ignore_patterns(*CACHES), symlinks=True)
        self.before = self.files()

    def fill(self, row: Row) -> None:
        """Try all that there is to try, until something fails."""
        try:
            row.adapter = places.adapter_of(self.tree)
        except CommandError as error:
            row.why.append(f"no place: {error}")
            return
        launcher = ("-m", "gan_regularizers", "run", "train.py")
        if "--dry-run" in self.options:
            done = self.python(*launcher, *self.line(), "--dry-run", *REG)
            row.dry_run = "resolves" if done.status == 0 else ""
            if done.status != 0:
                row.why.append(self.reason(done, *launcher, dry_run=True))
                return
        row.launched = self.train(row, "launched", *launcher)
        row.unchanged = self.unchanged()
        try:
            patching.write(self.tree, patching.insertions(self.tree))
            if row.launched:
                row.patched = self.train(row, "patched", "train.py")
            patching.write(self.tree, patching.removals(self.tree))
        except CommandError as error:
            problem = (error.more or str(error)).splitlines()[0].strip()  # the first of several
            if not any(problem in why for why in row.why):
                row.why.append(f"patch: {problem}")
            return
        row.reversed = self.unchanged()

    def train(self, row: Row, way: str, *command: str) -> str:
        """T at the end of a run, if T moved."""
        shutil.rmtree(self.out, ignore_errors=True)
        done = self.python(*command, *self.line(), *REG)
        stats = [*self.out.rglob("stats.jsonl"), *self.tree.rglob("stats.jsonl")]
        lines = max(stats, key=lambda path: path.stat().st_mtime).read_text().splitlines() if stats else []
        moved = json.loads(lines[-1]).get("Progress/augment_T", {}).get("mean") if lines else None
        if done.status in ENDS and moved and moved > 10:
            return f"{moved:.0f}"
        reason = "T does not move" if done.status in ENDS else self.reason(done, *command)
        row.why.append(f"{way}: {reason}")
        return ""

    def reason(self, done: Done, *command: str, dry_run: bool = False) -> str:
        """An error, and whether it is the checkout's own."""
        if done.error.startswith("gan-regularizers: "):
            return f"refused: {done.error.partition(': ')[2]}"
        if dry_run or done.error.startswith("lacks module"):
            own = self.python("-c", MODERN, "train.py", *self.line(), "--dry-run")
        else:
            own = self.python(*command, *self.line(), "--reg=none")
        if own.status in ENDS or "gan_regularizers" in own.error:
            return f"with --reg only: {done.error}"
        return f"its own error: {own.error}" + f"; with --reg: {done.error}" * (own.error != done.error)

    def python(self, *arguments: str) -> Done:
        """Run Python in the checkout, as a person would, with what makes networks tiny."""
        path = os.pathsep.join(filter(None, [str(TINY), os.environ.get("PYTHONPATH")]))
        settings = {"PYTHONPATH": path, "TINY": str(IMAGES), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        environment = {**os.environ, **settings, "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("PYTHONSAFEPATH", None)
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=self.tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=self.seconds,
            )
        except subprocess.TimeoutExpired:
            return Done(None, "")
        return Done(done.returncode, done.stdout)

    def unchanged(self) -> bool:
        """Whether all files that were there are what they were."""
        return self.before.items() <= self.files().items()

    def files(self) -> dict[str, str]:
        """Digests of all files but caches."""
        files = (path for path in self.tree.rglob("*") if path.is_file() and not {*CACHES} & set(path.parts))
        return {str(path.relative_to(self.tree)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    @cached_property
    def options(self) -> dict[str, ast.Call]:
        """The options of train.py by their names, as calls of click.option."""
        calls = ast.walk(ast.parse((self.tree / "train.py").read_bytes()))
        found = [node for node in calls if isinstance(node, ast.Call) and ast.unparse(node.func) == "click.option"]
        named = [(name, call) for call in found for name in call.args if isinstance(name, ast.Constant)]
        return {name.value: call for name, call in named if str(name.value).startswith("--")}

    def line(self) -> list[str]:
        """Options with which train.py trains on small images."""
        given = {name: value for name, value in VALUES.items() if name in self.options}
        for name, call in self.options.items():
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            if "required" in keywords and "default" not in keywords and name not in given:
                choices = _choices(keywords.get("type"))
                given[name] = next((name for name in CONFIGURATIONS if name in choices), [*choices, "name"][0])
        fastgan = given.get("--cfg", "").startswith("fastgan")
        side = FASTGAN_SIDE if fastgan else LARGE.get(self.repository, SIDE)
        for name in [name for name in given if name.endswith("data")]:
            folder = _data(self.work, side)
            file_alone = "dir_okay=False" in ast.unparse(self.options[name])
            given[name] = shutil.make_archive(str(folder), "zip", folder) if file_alone else str(folder)
        given |= {name: str(self.out) for name in ("--outdir", "--train_dir") if name in self.options}
        given |= {name: str(side) for name in given if name.endswith("resolution")}
        return [*[f"{name}={value}" for name, value in given.items()], *NEEDED.get(self.repository, [])]


def _choices(kind: ast.expr | None) -> list[str]:
    """Of a click.Choice that is written out."""
    if not isinstance(kind, ast.Call) or not ast.unparse(kind.func).endswith("Choice"):
        return []
    return [str(name.value) for name in ast.walk(kind.args[0]) if isinstance(name, ast.Constant)]


def _data(folder: Path, side: int) -> Path:
    """A folder of images of smooth noise with labels."""
    folder = folder / f"{side}"
    if not folder.exists():
        folder.mkdir()
        noise = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        images = interpolate(noise, size=side, mode="bilinear").mul(255).byte().permute(0, 2, 3, 1).numpy()
        labels = {f"{number:05}.png": number % 3 for number in range(len(images))}
        for name, image in zip(labels, images, strict=True):
            Image.fromarray(image).save(folder / name)
        (folder / "dataset.json").write_text(json.dumps({"labels": [*labels.items()]}))
    return folder


def find(folder: Path) -> Iterator[tuple[Row, Path]]:
    """The checkouts in a folder, and the trees in each that have a train.py beside a dnnlib."""
    listed = folder / "commits.txt"
    commits = dict(line.split()[:2] for line in listed.read_text().splitlines()) if listed.exists() else {}
    for checkout in sorted(path for path in folder.iterdir() if "+" in path.name):
        repository = checkout.name.replace("+", "/", 1)
        if (checkout / ".git").exists():
            head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True)
            commits[repository] = head.stdout.strip()
        for package in sorted(checkout.rglob("dnnlib/__init__.py")):
            tree = package.parents[1]
            if (tree / "train.py").exists():
                yield Row(repository, str(tree.relative_to(checkout)), commits.get(repository, "")), tree


def table(rows: list[Row]) -> str:
    """All of it as Markdown."""
    dry, launched, patched = (
        sum(bool(getattr(row, name)) for row in rows) for name in ("dry_run", "launched", "patched")
    )
    repositories = len({row.repository for row in rows})
    needed = "\n".join(f"- {name}: `{' '.join(options)}`" for name, options in NEEDED.items())
    text = f"""\
# Checkouts that were tried

Written by `python benchmarks/checkouts.py`: {len(rows)} trees of {repositories} public repositories, with torch
{torch.__version__}, on a CPU, with tiny networks and {IMAGES // BATCH} batches of {BATCH} images of {SIDE} pixels
(FastGAN: {FASTGAN_SIDE}), `{" ".join(REG)}`. Each ran its own train.py, in a copy.

- An adapter is for {sum(bool(row.adapter) for row in rows)} of them.
- `gan-regularizers run train.py --dry-run` resolves `--reg` in {dry}.
- Launched, {launched} train and T moves; afterwards all files were what they had been in
  {sum(row.unchanged for row in rows if row.launched)} of these.
- Patched, {patched} train and T moves; `--reverse` restored every byte in
  {sum(row.reversed for row in rows if row.patched)} of these.

A number is the mean of T in the last tick, by its own stats.jsonl. *Its own error* comes with `--reg=none` too, here,
where there is neither a GPU nor a network connection; *refused* is what the package says. Feature networks that timm
would download stay untrained. These got more options than their commands require:

{needed}

| repository | folder | commit | adapter | dry run | launched | patched | reversed | why not |
|---|---|---|---|---|---|---|---|---|
"""
    for row in rows:
        why = PATH.sub("", "; ".join(row.why)).replace("|", "\\|").replace("<", "\\<")
        cells = (row.adapter, row.dry_run, row.launched, row.patched, "to the byte" * row.reversed, why[:300])
        text += f"| {row.repository} | {row.folder} | {row.commit[:7]} | {' | '.join(cells)} |\n"
    return text


def main() -> int:
    """Try what was not tried, and write the table."""
    parser = Parser(prog="checkouts.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="of checkouts, as OWNER+NAME")
    add("--only", nargs="+", default=(), metavar="NAME", help="try these, anew; a part of OWNER/NAME is enough")
    add("--out", type=Path, metavar="MD", help="for the table (default: it is printed)")
    add("--json", type=Path, metavar="JSONL", help="of outcomes (default: checkouts.jsonl in FOLDER)")
    add("--seconds", type=whole_number("[1, inf)"), default=120, help="longest run of a script (default: 120)")
    args = parser.parse_args()
    cache = args.json or args.folder / "checkouts.jsonl"
    known = [Row(**json.loads(line)) for line in cache.read_text().splitlines()] if cache.exists() else []
    outcomes = {row.key: row for row in known}  # the last of each
    found, lock = list(find(args.folder)), threading.Lock()
    chosen = [
        (row, tree)
        for row, tree in found
        if (any(name in row.repository for name in args.only) if args.only else row.key not in outcomes)
    ]

    def attempt(row: Row, tree: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            Trial(tree, Path(work), args.seconds, row.repository).fill(row)
        with lock, cache.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
            outcomes[row.key] = row
            print(
                f"{row.repository} {row.folder}: {row.launched or '-'} {row.patched or '-'} {'; '.join(row.why)}",
                flush=True,
            )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda pair: attempt(*pair), chosen))
    text = table([outcomes[row.key] for row, _ in found if row.key in outcomes])
    if args.out:
        write_atomically(args.out, text.encode())
    else:
        print(text)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CommandError as error:
        sys.exit(f"checkouts.py: {error}")
