"""Mutation testing: put deliberate faults into a copy of the repository and see whether its tests notice.

    python tests/faults                     # all faults, one after the other: an hour or two
    python tests/faults --only philox bits  # those with one of these in their file or name
    python tests/faults --list              # what there is

Needs the ``test`` extra, a C++ compiler and no GPU. The copy has kernels of its own; those of CUDA run in the
emulation that their tests compile. The tests must pass without a fault first. Exits with 1 if a fault that is not
known to be equivalent survived, or could not be put in.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (
    ".git .venv* .*_cache .hypothesis __pycache__ build dist *.egg-info *.so kernels.json *-out low-data-*".split()
)
EMULATED = re.compile(r"test_(kernels_cuda|cuda_launcher|cubins)\.py")
SECONDS = 300.0  # that the tests of one fault may take: several times what they need

# Native kernels count as missing where the record does not name the sources that are there.
RECORD = """
import json
from gan_regularizers.kernels import building
sources = building._digest(building.sources())
record = {building.file_name(): {"sources": sources}}
(building.PACKAGE / building.FOLDER / building._RECORD).write_text(json.dumps(record))
assert not building.report().missing
print(building.PACKAGE)
"""


class CompilationError(Exception):
    """The fault is none: no program has it."""


class Copy:
    """A copy of the repository that Python imports in place of any other, with kernels of its own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        shutil.copytree(ROOT, self.root, ignore=shutil.ignore_patterns(*LEFT_OUT))
        package = self.root / "gan_regularizers"
        self._objects, self._compiled = folder / "objects", folder / "compiled"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GAN_REGULARIZERS_")}
        self._environment = {
            **kept,
            "PYTHONPATH": str(self.root),
            "PYTHONSAFEPATH": "1",
            # An edit of the same length within one second would go unseen.
            "PYTHONDONTWRITEBYTECODE": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(self._compiled),
            "COLUMNS": "999",  # pytest cuts its lines
        }
        pybind11 = self._run(sys.executable, "-m", "pybind11", "--cmakedir").strip()
        options = {
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": package / "kernels",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11,
        }
        defined = [f"-D{name}={value}" for name, value in options.items()]
        self._run("cmake", "-S", self.root / "csrc", "-B", self._objects, "-G", "Ninja", *defined)
        self._kernels_are_faulty = False
        imported = self._build()
        if Path(imported).resolve() != package.resolve():
            sys.exit(f"Python imports {imported} in place of the copy")

    def noticed_by(self, tests: Iterable[str], seconds: float | None = None) -> str:
        """The first test that fails, or another sign of a fault; empty where there is none."""
        options = "-x -q --no-header --tb=no -p no:cacheprovider".split()
        command = [sys.executable, "-m", "pytest", *options, *tests]
        # The compiler's cache does not know of faults in what it traced.
        shutil.rmtree(self._compiled, ignore_errors=True)
        with self._start(command) as process:
            try:
                output, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with its children
                return f"no end within {seconds:.0f} seconds"
        if process.returncode < 0:
            return f"the end of Python by {signal.Signals(-process.returncode).name}"
        if process.returncode in (1, 2):
            failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", output, re.MULTILINE)
            if failed and "CalledProcessError" in (failed[2] or "") and EMULATED.search(failed[1]):
                raise CompilationError  # of the emulation, which the tests compile
            return failed[1] if failed else "the end of Python, as a sanitizer makes it"
        if process.returncode:
            sys.exit(f"pytest did not run the tests:\n{output}")
        return ""

    def noticed(self, fault: Fault) -> str:
        """The same with a fault in place."""
        file = self.root / fault.path
        sound = file.read_text(encoding="utf-8")
        file.write_text(sound.replace(fault.before, fault.after), encoding="utf-8")
        in_kernels = fault.path.startswith("csrc/")
        try:
            if file.suffix == ".py":
                compile(file.read_text(encoding="utf-8"), file, "exec")
            if in_kernels or self._kernels_are_faulty:
                self._kernels_are_faulty = in_kernels
                self._build()
            return self.noticed_by(fault.tests, SECONDS)
        except (SyntaxError, subprocess.CalledProcessError) as error:
            raise CompilationError from error
        finally:
            file.write_text(sound, encoding="utf-8")

    def _build(self) -> str:
        """Build what changed, and return the folder of the package that Python imports."""
        self._run("cmake", "--build", self._objects)
        return self._run(sys.executable, "-c", RECORD).strip()

    def _run(self, *command: str | Path) -> str:
        with self._start(command) as process:
            output, _ = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, output)
        return output

    def _start(self, command: Iterable[str | Path]) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def outcome_of(copy: Copy, fault: Fault) -> tuple[str, str]:
    """What became of a fault, in a word, and what there is to say of it."""
    try:
        by = copy.noticed(fault)
    except CompilationError:
        return "ERROR", "does not compile"
    if by:
        return "noticed", f"by {by}" + (", though it is listed as equivalent" if fault.equivalent else "")
    return ("equivalent", fault.equivalent) if fault.equivalent else ("SURVIVED", " ".join(fault.tests))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser("python tests/faults", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="SUBSTRING", help="with one in their file or name")
    parser.add_argument("--list", action="store_true", help="list the faults and do nothing else")
    arguments = parser.parse_args()
    faults = [fault for fault in FAULTS if any(only in str(fault) for only in arguments.only)]
    if not faults:
        parser.error(f"--only {' '.join(arguments.only)}: in no fault; --list shows them")
    if arguments.list:
        print(*faults, sep="\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        if by := copy.noticed_by(dict.fromkeys(test for fault in faults for test in fault.tests)):
            sys.exit(f"The tests fail without a fault: {by}")
        outcomes = Counter()
        for fault in faults:
            outcome, remark = outcome_of(copy, fault)
            outcomes[outcome] += 1
            print(f"{outcome:10} {fault}: {remark}", flush=True)
    print(f"{len(faults)} faults:", ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    sys.exit(bool(outcomes["SURVIVED"] + outcomes["ERROR"]))


if __name__ == "__main__":
    main()
