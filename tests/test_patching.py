"""The patch tool, on small trees with patches made here; then what must hold of the package's own patches."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gan_regularizers import patching
from gan_regularizers.cli import main
from gan_regularizers.errors import CommandError
from gan_regularizers.patching import File, Insertion, State

ROOT = Path(__file__).parent.parent
PATCHES = ROOT / "patches"
COMMIT = "c233a919a6faee6e36a316ddd4eddababad1adf9"

TRAIN = b"import click\nimport torch\n\n@click.command()\ndef main():\n    launch()\n\nmain()\n"
SHARED = b"from .util import EasyDict\n"
LOADER = b"class Sampler:\n    pass"  # without a newline at its end

# What two repositories are patched with, by path: the original, the patch, and what goes in after which line, where.
STYLEGAN3 = {
    "dnnlib/__init__.py": (SHARED, "modern-torch", [(0, ["import numpy", ""], "before all")]),
    "torch_utils/misc.py": (LOADER, "modern-torch", [(1, ["    # ours", "    size = 1"], "first in the class")]),
    "train.py": (
        TRAIN,
        "regularizers",
        [
            (2, ["import gan_regularizers"], "beside the other imports"),
            (3, ["@gan_regularizers.options", "# é"], "among the click options"),
            (5, ["    configure()"], "before training is launched"),
        ],
    ),
}
INSGEN = {
    "dnnlib/__init__.py": (SHARED, "modern-torch", [(1, ["import scipy"], "at the end")]),
    "train.py": (TRAIN + b"# InsGen\n", "regularizers", [(2, ["import gan_regularizers"], "beside the other imports")]),
}
REPOSITORIES = {"insgen": INSGEN, "stylegan3": STYLEGAN3}


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def diff(path: str, insertions: list) -> str:
    text, inserted = f"--- a/{path}\n+++ b/{path}\n", 0
    for after, lines, _ in insertions:
        size = "" if len(lines) == 1 else f",{len(lines)}"
        text += f"@@ -{after},0 +{after + inserted + 1}{size} @@\n" + "".join(f"+{line}\n" for line in lines)
        inserted += len(lines)
    return text


def write_patches(folder: Path, repositories: dict = REPOSITORIES) -> Path:
    for name, files in repositories.items():
        (folder / name).mkdir(parents=True)
        pinned = {
            path: {"blob": blob(content), "where": [where for *_, where in insertions]}
            for path, (content, _, insertions) in files.items()
        }
        pin = {"repository": f"NVlabs/{name}", "commit": COMMIT, "files": pinned}
        (folder / name / "pin.json").write_text(json.dumps(pin))
        for patch in patching.PATCHES:
            diffs = (diff(path, insertions) for path, (_, of, insertions) in files.items() if of == patch)
            (folder / name / f"{patch}.patch").write_bytes("".join(diffs).encode())
    return folder


def write_checkout(folder: Path, files: dict = STYLEGAN3) -> Path:
    for path, (content, *_) in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def patches(tmp_path, monkeypatch) -> Path:
    folder = write_patches(tmp_path / "patches")
    monkeypatch.setattr(patching, "patches_folder", lambda _: folder)
    return folder


@pytest.fixture
def checkout(tmp_path) -> Path:
    return write_checkout(tmp_path / "stylegan3")


def states(checkout: Path) -> list[str]:
    tree = patching.inspect(checkout)
    return [tree.state(file).value for file in tree.pin.files]


def refusal(capsys, *arguments: str | Path) -> str:
    """What a command says that fails."""
    assert main(["patch", *map(str, arguments)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("gan-regularizers: ")
    return said


# A run


def test_apply_and_reverse(checkout, capsys):
    before = contents(checkout)
    assert main(["patch", str(checkout)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "NVlabs/stylegan3 at c233a91"
    assert "dnnlib/__init__.py  2 lines inserted" in shown
    assert "train.py            4 lines inserted" in shown
    assert shown[-1] == f"Next: cd {checkout} && python train.py --help"
    assert (checkout / "train.py").read_text(encoding="utf-8").splitlines() == [
        "import click",
        "import torch",
        "import gan_regularizers",
        "",
        "@gan_regularizers.options",
        "# é",
        "@click.command()",
        "def main():",
        "    configure()",
        "    launch()",
        "",
        "main()",
    ]
    assert (checkout / "torch_utils/misc.py").read_bytes() == b"class Sampler:\n    # ours\n    size = 1\n    pass"

    patched = contents(checkout)
    assert "is patched already; --reverse takes the lines out\n" in refusal(capsys, checkout)
    assert "has the modern-torch patch already; --rev" in refusal(capsys, checkout, "--only", "modern-torch")
    assert contents(checkout) == patched

    assert main(["patch", str(checkout), "--reverse"]) == 0
    shown = capsys.readouterr().out
    assert "train.py            4 lines taken out" in shown
    assert "Next" not in shown
    assert contents(checkout) == before
    assert "is not patched: no line of the patches is at its place" in refusal(capsys, checkout, "--reverse")


def test_one_patch_then_the_rest(checkout, capsys):
    before = contents(checkout)
    assert main(["patch", str(checkout), "--only", "modern-torch"]) == 0
    assert states(checkout) == ["patched", "patched", "original"]
    assert "no line of the regularizers patch" in refusal(capsys, checkout, "--reverse", "--only", "regularizers")
    assert main(["patch", str(checkout)]) == 0
    assert states(checkout) == ["patched"] * 3
    assert "train.py  " in capsys.readouterr().out
    assert main(["patch", str(checkout), "--reverse", "--only", "regularizers"]) == 0
    assert states(checkout) == ["patched", "patched", "original"]
    assert main(["patch", str(checkout), "--reverse"]) == 0
    assert contents(checkout) == before


def test_check_changes_nothing(checkout, capsys):
    before = contents(checkout)
    assert main(["patch", str(checkout), "--check", "--only", "regularizers"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NVlabs/stylegan3 at c233a91",
        "dnnlib/__init__.py  original",
        "torch_utils/misc.py original",
        "train.py            original",
        "train.py          4 lines would be inserted",
    ]
    assert main(["patch", str(checkout), "--check", "--reverse"]) == 0
    assert "nothing           would be taken out" in capsys.readouterr().out
    assert contents(checkout) == before

    patching.apply(patching.inspect(checkout))
    before = contents(checkout)
    assert main(["patch", str(checkout), "--check"]) == 0
    assert "nothing           would be inserted" in capsys.readouterr().out
    assert main(["patch", str(checkout), "--check", "--reverse"]) == 0
    assert "train.py            4 lines would be taken out" in capsys.readouterr().out
    (checkout / "train.py").write_bytes(TRAIN + b"edited()\n")
    before = contents(checkout)
    assert main(["patch", str(checkout), "--check"]) == 1
    captured = capsys.readouterr()
    assert "train.py            modified" in captured.out
    assert "train.py (modified)" in captured.err
    assert contents(checkout) == before


def test_list(capsys):
    assert main(["patch", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "insgen            NVlabs/insgen at c233a91: 1 line of modern-torch, 1 line of regularizers",
        "stylegan3         NVlabs/stylegan3 at c233a91: 4 lines of modern-torch, 4 lines of regularizers",
    ]
    assert "--list says what is known, without PATH" in refusal(capsys, "--list", "stylegan3")
    assert "--list says of which" in refusal(capsys)


def test_a_path_is_quoted_for_the_shell(tmp_path, capsys):
    assert main(["patch", str(write_checkout(tmp_path / "my GANs"))]) == 0
    assert capsys.readouterr().out.endswith("my GANs' && python train.py --help\n")


# Recognition


def test_the_repository_with_most_known_files(tmp_path):
    for name, files in REPOSITORIES.items():
        assert patching.inspect(write_checkout(tmp_path / name, files)).pin.name == name
    shutil.rmtree(tmp_path / "stylegan3/torch_utils")
    (tmp_path / "insgen/train.py").write_bytes(b"another")
    (tmp_path / "stylegan3/train.py").write_bytes(b"another")
    # One known file in common. insgen lacks none of its two files here, stylegan3 one of its three.
    assert patching.inspect(tmp_path / "stylegan3").pin.name == "insgen"
    (tmp_path / "stylegan3/torch_utils").mkdir()
    (tmp_path / "stylegan3/torch_utils/misc.py").write_bytes(b"another")
    assert patching.inspect(tmp_path / "stylegan3").pin.name == "stylegan3"
    assert patching.inspect(tmp_path / "insgen").pin.name == "insgen"


def test_of_repositories_that_share_files_the_one_that_lacks_fewest(tmp_path):
    folder = write_patches(tmp_path / "others", {"a": STYLEGAN3, "b": INSGEN})
    checkout = write_checkout(tmp_path / "b", INSGEN)
    (checkout / "train.py").write_bytes(b"another")
    assert patching.inspect(checkout, folder).pin.name == "b"


def test_a_folder_that_is_unknown(tmp_path, capsys):
    (tmp_path / "gan").mkdir()
    (tmp_path / "gan/train.py").write_text("another repository's\n")
    (line,) = refusal(capsys, tmp_path / "gan").splitlines()
    assert "gan is unknown" in line
    assert "is as in NVlabs/insgen at c233a91, NVlabs/stylegan3 at c233a91; name the folder with train.py" in line


def test_a_path_that_is_no_folder(checkout, capsys):
    assert f"no such folder: {checkout}x\n" in refusal(capsys, f"{checkout}x")
    said = refusal(capsys, checkout / "train.py")
    assert f"train.py is a file; name the folder with train.py of a checkout, such as {checkout}\n" in said


def test_a_path_around_or_in_a_checkout(tmp_path, checkout, capsys):
    said = refusal(capsys, tmp_path)
    assert f"{tmp_path} is no checkout itself; name the one in or around it: {checkout}\n" in said
    write_checkout(tmp_path / "insgen", INSGEN)
    assert f": {tmp_path / 'insgen'}, {checkout}\n" in refusal(capsys, tmp_path)
    assert f"around it: {checkout}\n" in refusal(capsys, checkout / "dnnlib")


def test_folders_beside_that_may_not_be_read(tmp_path, checkout, monkeypatch, capsys):
    private = write_checkout(tmp_path / "private")
    read_bytes = Path.read_bytes

    def forbidden(path: Path) -> bytes:
        if private in path.parents:
            raise PermissionError(f"no entry: {path}")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert f"around it: {checkout}\n" in refusal(capsys, tmp_path)
    assert f"no entry: {private}" in refusal(capsys, private)


def test_no_patches_at_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(patching, "patches_folder", lambda _: tmp_path / "none")
    assert f"there are no patches in {tmp_path / 'none'}; install" in refusal(capsys, "--list")


# Files that differ


def test_files_that_differ_are_named_with_what_to_insert(checkout, capsys):
    (checkout / "train.py").write_bytes(b"# a fork's\n" + TRAIN)
    (checkout / "dnnlib/__init__.py").unlink()
    before = contents(checkout)
    original = f"in the original https://github.com/NVlabs/stylegan3/blob/{COMMIT}"
    assert refusal(capsys, checkout).splitlines() == [
        f"gan-regularizers: {checkout} is like NVlabs/stylegan3 at c233a91, but of the 3 files to change these "
        "differ: dnnlib/__init__.py (missing), train.py (modified). Nothing was changed. Put back what upstream has,"
        " or insert these lines by hand, then run this again to insert the rest:",
        "",
        f"dnnlib/__init__.py, {original}/dnnlib/__init__.py",
        "  after line 0 of the original, before all:",
        "    +import numpy",
        "    +",
        "",
        f"train.py, {original}/train.py",
        "  after line 2 of the original, beside the other imports:",
        "    +import gan_regularizers",
        "  after line 3 of the original, among the click options:",
        "    +@gan_regularizers.options",
        "    +# é",
        "  after line 5 of the original, before training is launched:",
        "    +    configure()",
    ]
    assert contents(checkout) == before
    assert "of the 2 files to change these differ: dnnlib/__init__.py (missing). " in refusal(
        capsys, checkout, "--only", "modern-torch"
    )
    assert contents(checkout) == before


def test_the_other_patch_may_differ(checkout):
    (checkout / "train.py").write_bytes(b"# a fork's\n" + TRAIN)
    assert main(["patch", str(checkout), "--only", "modern-torch"]) == 0
    assert states(checkout) == ["patched", "patched", "modified"]
    assert main(["patch", str(checkout), "--reverse"]) == 0  # a modified file without our lines is in nobody's way
    assert states(checkout) == ["original", "original", "modified"]


def test_a_fork_that_was_patched_by_hand_gets_the_rest(checkout, capsys):
    file = patching.inspect(checkout).pin.files[-1]
    by_hand = b"# a fork's\n" + file.insert(TRAIN)
    (checkout / "train.py").write_bytes(by_hand)
    assert states(checkout) == ["original", "original", "looks patched by hand, or edited since"]
    assert main(["patch", str(checkout)]) == 0
    assert "train.py          looks patched by hand, or edited since\n" in capsys.readouterr().out
    assert states(checkout) == ["patched", "patched", "looks patched by hand, or edited since"]
    assert (checkout / "train.py").read_bytes() == by_hand
    assert main(["patch", str(checkout), "--check"]) == 0
    assert "is patched already" in refusal(capsys, checkout)

    before = contents(checkout)
    said = refusal(capsys, checkout, "--reverse").splitlines()
    assert "train.py (looks patched by hand, or edited since)" in said[0]
    assert "take these lines out by hand" in said[0]
    assert said[3:5] == ["  from line 4 on, beside the other imports:", "    +import gan_regularizers"]
    assert contents(checkout) == before
    (checkout / "train.py").write_bytes(b"# a fork's\n" + TRAIN)
    assert main(["patch", str(checkout), "--reverse"]) == 0
    assert states(checkout) == ["original", "original", "modified"]


def test_our_lines_in_another_order_are_not_patched_by_hand(checkout):
    lines = (
        line for insertion in patching.inspect(checkout).pin.files[-1].insertions[::-1] for line in insertion.lines
    )
    (checkout / "train.py").write_bytes(b"\n".join([*lines, TRAIN]))
    assert states(checkout)[-1] == "modified"


def test_lines_that_were_edited_after_patching(checkout, capsys):
    patching.apply(patching.inspect(checkout))
    train = checkout / "train.py"
    train.write_bytes(train.read_bytes().replace(b"configure()", b"configure(1)"))
    before = contents(checkout)
    said = refusal(capsys, checkout, "--reverse")
    assert "train.py (modified)" in said
    assert "+import gan_regularizers\n" in said
    assert "configure" not in said
    assert contents(checkout) == before


# Files as they are found


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
def test_windows_line_ends(checkout, prefix, patches):
    original = prefix + TRAIN
    pin = patches / "stylegan3/pin.json"
    pin.write_text(pin.read_text().replace(blob(TRAIN), blob(original)))
    windows = original.replace(b"\n", b"\r\n")
    (checkout / "train.py").write_bytes(windows)
    patching.apply(patching.inspect(checkout))
    patched = (checkout / "train.py").read_bytes()
    assert patched.count(b"\r\n") == patched.count(b"\n") == TRAIN.count(b"\n") + 4
    assert states(checkout) == ["patched"] * 3
    patching.reverse(patching.inspect(checkout))
    assert (checkout / "train.py").read_bytes() == windows


def test_patches_with_windows_line_ends(checkout, patches):
    for path in patches.rglob("*.patch"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    patching.apply(patching.inspect(checkout))
    assert b"\r" not in (checkout / "train.py").read_bytes()


def test_permissions_stay(checkout):
    modes = {"train.py": 0o755, "torch_utils/misc.py": 0o444}
    for path, mode in modes.items():
        (checkout / path).chmod(mode)
    for change in (patching.apply, patching.reverse):
        change(patching.inspect(checkout))
        assert {path: (checkout / path).stat().st_mode & 0o777 for path in modes} == modes


def test_links_are_followed(checkout, tmp_path):
    real = tmp_path / "elsewhere.py"
    (checkout / "train.py").rename(real)
    (checkout / "train.py").symlink_to(real)
    patching.apply(patching.inspect(checkout))
    assert (checkout / "train.py").is_symlink()
    assert b"import gan_regularizers" in real.read_bytes()
    patching.reverse(patching.inspect(checkout))
    assert real.read_bytes() == TRAIN


@pytest.mark.parametrize("method", ["replace", "write_bytes"])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("error", [PermissionError("in use"), KeyboardInterrupt()])
@pytest.mark.parametrize("option", [[], ["--reverse"]])
def test_all_files_or_none(checkout, option, method, nth, error, monkeypatch, capsys):
    calls, real = [], getattr(Path, method)

    def fails_once(self, *arguments):
        calls.append(self)
        if len(calls) == nth:
            raise error
        return real(self, *arguments)

    if option:
        patching.apply(patching.inspect(checkout))
    before = contents(checkout)
    monkeypatch.setattr(Path, method, fails_once)
    status, said = (1, "in use") if isinstance(error, OSError) else (130, "interrupted")
    assert main(["patch", str(checkout), *option]) == status
    assert capsys.readouterr().err == f"gan-regularizers: {said}\n"
    assert contents(checkout) == before  # with no temporary file left


# Round trips


@st.composite
def touched(draw, ends=(b"\n", b"\r\n")) -> tuple[File, bytes]:
    """A file that a patch touches, and its original."""
    end = draw(st.sampled_from(ends))
    lines = draw(st.lists(st.binary(max_size=5).filter(lambda line: b"\n" not in line), max_size=8))
    content = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + b"".join(line + end for line in lines)
    places = sorted(draw(st.sets(st.integers(0, content.count(b"\n")), min_size=1, max_size=4)))
    content += draw(st.sampled_from([b"", b"unfinished"]))
    line = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=5).map(str.encode)
    some = st.lists(line, min_size=1, max_size=3).map(tuple)
    insertions = tuple(Insertion(place, draw(some), "there") for place in places)
    return File("train.py", blob(content), "regularizers", insertions), content


@given(touched())
def test_a_round_trip_is_exact(example):
    file, content = example
    assert file.state(content) is State.ORIGINAL
    patched = file.insert(content)
    assert patched.count(b"\n") == content.count(b"\n") + file.count
    assert file.state(patched) is State.PATCHED
    assert file.remove(patched) == content
    assert file.state(content + b"edited\n") in (State.MODIFIED, State.BY_HAND)
    assert file.state(patched + b"edited\n") is State.BY_HAND


@given(touched(ends=(b"\n",)))
def test_a_round_trip_is_exact_where_git_made_windows_line_ends(example):
    file, content = example
    assume(b"\r" not in content)
    windows = content.replace(b"\n", b"\r\n")
    assert file.state(windows) is State.ORIGINAL
    patched = file.insert(windows)
    assert file.state(patched) is State.PATCHED
    assert file.state(patched.replace(b"\r\n", b"\n")) is State.PATCHED
    assert file.remove(patched) == windows
    if content.count(b"\n"):
        assert patched == file.insert(content).replace(b"\n", b"\r\n")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "--quiet")
    return folder


def git(folder: Path, *arguments: str | Path) -> None:
    settings = ("-c", "core.autocrlf=false", "-c", "core.whitespace=-blank-at-eof")
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@given(touched(ends=(b"\n",)))
def test_git_inserts_the_same(repository, example):
    file, content = example
    assume(not content.partition(b"\n")[0].endswith(b"\r"))
    hunks = [(insertion.after, [line.decode() for line in insertion.lines], "") for insertion in file.insertions]
    (repository / "a.patch").write_bytes(diff(file.path, hunks).encode())
    assert patching._parse(repository / "a.patch") == {file.path: [(i.after, i.lines) for i in file.insertions]}
    (repository / file.path).write_bytes(content)
    git(repository, "apply", "--unidiff-zero", "--whitespace=nowarn", "a.patch")
    assert (repository / file.path).read_bytes() == file.insert(content)
    git(repository, "apply", "--unidiff-zero", "--whitespace=nowarn", "--reverse", "a.patch")
    assert (repository / file.path).read_bytes() == content


def test_git_takes_the_patches(checkout, patches):
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    before = contents(checkout)
    patching.apply(patching.inspect(checkout))
    patched = contents(checkout)
    write_checkout(checkout)
    for patch in patching.PATCHES:
        git(checkout, "apply", "--unidiff-zero", patches / f"stylegan3/{patch}.patch")
    assert contents(checkout) == patched
    assert states(checkout) == ["patched"] * 3
    patching.reverse(patching.inspect(checkout))
    assert contents(checkout) == before


# The patches


@pytest.mark.parametrize("content", [b"a\nb", b"a\n"])
def test_lines_go_in_after_whole_lines_alone(content):
    file = File("train.py", blob(content), "regularizers", (Insertion(2, (b"c",), "at the end"),))
    with pytest.raises(ValueError, match=r"train\.py has no 2 whole lines"):
        file.insert(content)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: expected a file"),
        ("diff --git a/a b/a\n", "line 1: "),
        ("--- a/a\n+++ b/b\n@@ -1,0 +2 @@\n+x\n", "line 1: "),
        ("--- a/a\n+++ b/a\n", "line 1: "),
        ("--- a/a\n+++ b/a\n@@ -1,0 +2 @@\n+x\n+y", "line 5: "),
        ("--- a/a\n+++ b/a\n@@ -1,0 +2 @@\n+x\n context\n", "line 5: "),
        ("--- a/a\n+++ b/a\n@@ -1,0 +2 @@\n+x\n-y\n", "line 5: "),
        ("--- a/a\n+++ b/a\n@@ -1,0 +2 @@\n+x\n\\ No newline at end of file\n", "line 5: "),
        (2 * "--- a/a\n+++ b/a\n@@ -1,0 +2 @@\n+x\n", "line 5: expected a file that was not there before"),
        ("--- a/a\n+++ b/a\n@@ -1,0 +2 @@ def main():\n+x\n", "'@@ -1,0 +2 @@ def main():' is not the place of 1 "),
        ("--- a/a\n+++ b/a\n@@ -1 +2 @@\n+x\n", "'@@ -1 +2 @@' is not"),
        ("--- a/a\n+++ b/a\n@@ -1,0 +1 @@\n+x\n", "'@@ -1,0 +1 @@' is not"),
        ("--- a/a\n+++ b/a\n@@ -1,0 +2,2 @@\n+x\n", "'@@ -1,0 +2,2 @@' is not"),
        ("--- a/a\n+++ b/a\n@@ -4,0 +5 @@\n+x\n@@ -1,0 +3 @@\n+y\n", "'@@ -1,0 +3 @@' is not"),
        ("--- a/a\n+++ b/a\n@@ -4,0 +5 @@\n+x\n@@ -4,0 +6 @@\n+y\n", "'@@ -4,0 +6 @@' is not"),
    ],
)
def test_a_patch_that_does_more_than_insert_is_refused(text, said, patches):
    (patches / "stylegan3/regularizers.patch").write_bytes(text.encode())
    with pytest.raises(ValueError, match=re.escape(said)):
        patching.pins()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"train.py"', '"main.py"', "regularizers.patch touches train.py, which pin.json lacks"),
        ('{"train.py"', '{"main.py": {}, "train.py"', "no patch touches main.py"),
        ('"first in the class"', '"a", "b"', "torch_utils/misc.py has 1 hunks, but 2 words"),
        (COMMIT, "c233a91", "'c233a91' is no name of a commit"),
        (blob(TRAIN), "main", "'main' is no name of a commit or a blob"),
    ],
)
def test_a_pin_and_its_patches_agree(old, new, said, patches):
    pin = patches / "stylegan3/pin.json"
    fields = json.loads(pin.read_text())
    fields["files"] = dict(sorted(fields["files"].items(), reverse=True))
    text = json.dumps(fields)
    assert old in text
    pin.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(said)):
        patching.pins()


def test_a_file_has_one_patch(patches):
    with (patches / "stylegan3/modern-torch.patch").open("a", encoding="utf-8") as patch:
        patch.write(diff("train.py", STYLEGAN3["train.py"][-1]))
    with pytest.raises(ValueError, match=r"which pin\.json lacks or the other patch has"):
        patching.pins()


def test_the_patches_of_a_wheel_and_of_a_source_tree(tmp_path, monkeypatch):
    monkeypatch.undo()
    package = tmp_path / "site-packages/gan_regularizers"
    package.mkdir(parents=True)
    assert patching.patches_folder(package) == package.parent / "patches"
    (package / "patches").mkdir()
    assert patching.patches_folder(package) == package / "patches"
    assert patching.patches_folder(patching.PACKAGE).parent in (patching.PACKAGE, patching.PACKAGE.parent)


@pytest.mark.skipif(not PATCHES.exists(), reason="this tree has no patches")
def test_the_patches_of_the_package():
    assert patching.pins(PATCHES)
    lines = r"--- a/.+|\+\+\+ b/.+|@@ -\d+,0 \+\d+(,\d+)? @@|\+.*"
    for path in PATCHES.rglob("*.patch"):
        text = path.read_text(encoding="utf-8")
        assert [line for line in text.removesuffix("\n").split("\n") if not re.fullmatch(lines, line)] == [], path


def test_the_api_refuses_too(checkout):
    patching.apply(patching.inspect(checkout))
    with pytest.raises(CommandError, match="is patched already"):
        patching.apply(patching.inspect(checkout))
