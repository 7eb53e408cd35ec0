"""The patch tool, on a checkout made here and on what people do to theirs; then what must hold of the patch files."""

import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from checkouts import LAUNCHED, LOOP, contents, write

from gan_regularizers.adapters import patching, places
from gan_regularizers.commands import main

ROOT = Path(__file__).parent.parent
PATCHES = ROOT / "patches"
COUNTS = {"dnnlib/__init__.py": "1 line", "training/training_loop.py": "1 line", "train.py": "3 lines"}


@pytest.fixture
def checkout(tmp_path) -> Path:
    return write(tmp_path / "stylegan3")


def patch(*arguments: str | Path) -> None:
    assert main(["patch", *map(str, arguments)]) == 0


def refusal(capsys, *arguments: str | Path) -> str:
    """What a command says that fails."""
    capsys.readouterr()
    assert main(["patch", *map(str, arguments)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("gan-regularizers: ")
    return said


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())


# A run


def test_apply_and_reverse(checkout, capsys):
    before = contents(checkout)
    patch(checkout)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(f"{checkout}, by its structure: training_loop() has an augment_pipe and the controller")
    assert shown[1:4] == [f"{path:<25} {count} inserted" for path, count in COUNTS.items()]
    assert shown[4] == f"Next: cd {checkout} && python train.py --help"

    patched = contents(checkout)
    assert {path for path in before if before[path] != patched[path]} == set(COUNTS)
    assert "is patched already; --reverse takes the lines out\n" in refusal(capsys, checkout)
    assert "has the modern-torch patch already; --rev" in refusal(capsys, checkout, "--only", "modern-torch")
    assert contents(checkout) == patched

    patch(checkout, "--reverse")
    shown = capsys.readouterr().out.splitlines()
    assert shown == [f"{path:<25} {count} taken out" for path, count in COUNTS.items()]
    assert contents(checkout) == before
    assert "is not patched: it has no line of ours\n" in refusal(capsys, checkout, "--reverse")


def test_one_patch_then_the_rest(checkout, capsys):
    before = contents(checkout)
    patch(checkout, "--only", "modern-torch")
    assert (checkout / "train.py").read_text() == LAUNCHED
    assert "it has no line of the regularizers patch\n" in refusal(
        capsys, checkout, "--reverse", "--only", "regularizers"
    )
    patch(checkout)
    assert "training_loop.py" not in capsys.readouterr().out
    patched = contents(checkout)
    patch(checkout, "--reverse", "--only", "regularizers")
    assert (checkout / "train.py").read_text() == LAUNCHED
    assert (checkout / places.LOOP).read_bytes() == patched[places.LOOP]
    patch(checkout, "--reverse", "--only", "modern-torch")
    assert contents(checkout) == before


def test_check_shows_a_diff_and_changes_nothing(checkout, capsys):
    before = contents(checkout)
    patch(checkout, "--check", "--only", "regularizers")
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:3] == ["--- a/train.py", "+++ b/train.py"]
    assert [line for line in shown[3:] if line.startswith("+")] == [
        "+from gan_regularizers.adapters import stylegan as regularizers  # gan_regularizers",
        "+@regularizers.options  # gan_regularizers",
        "+    desc = regularizers.configure(c, desc)  # gan_regularizers",
    ]
    assert shown[-1] == "train.py          3 lines would be inserted"
    patch(checkout, "--check", "--reverse")
    assert "nothing           would be taken out" in capsys.readouterr().out
    assert contents(checkout) == before

    patch(checkout)
    before = contents(checkout)
    patch(checkout, "--check")
    assert "nothing           would be inserted" in capsys.readouterr().out
    patch(checkout, "--check", "--reverse")
    shown = capsys.readouterr().out
    assert "\n-@regularizers.options  # gan_regularizers\n" in shown
    assert "train.py                  3 lines would be taken out" in shown
    assert contents(checkout) == before


def test_list(capsys):
    patch("--list")
    shown = capsys.readouterr().out
    assert "\nwrapped           training_loop() has no controller of augmentation" in shown
    assert "\nstylegan3             NVlabs/stylegan3 at c233a91\n" in shown
    assert "--list says what is known, without PATH" in refusal(capsys, "--list", "stylegan3")
    assert "--list says of which" in refusal(capsys)


def test_a_path_is_quoted_for_the_shell(tmp_path, capsys):
    patch(write(tmp_path / "my GANs"))
    assert capsys.readouterr().out.endswith("my GANs' && python train.py --help\n")


def test_a_pinned_commit_is_named(checkout, tmp_path, monkeypatch, capsys):
    files = {path: patching._blob_id((checkout / path).read_bytes()) for path in COUNTS}
    folder = tmp_path / "patches/other"
    folder.mkdir(parents=True)
    pin = {"repository": "somebody/other", "commit": "c233a919a6faee6e36a316ddd4eddababad1adf9", "files": files}
    (folder / "pin.json").write_text(json.dumps(pin))
    monkeypatch.setattr(patching, "patches_folder", lambda _: tmp_path / "patches")
    for path in COUNTS:
        content = (checkout / path).read_bytes()
        (checkout / path).write_bytes(content.replace(b"\n", b"\r\n"))  # as git checks out on Windows
    patch(checkout)
    assert capsys.readouterr().out.startswith("somebody/other at c233a91\n")
    assert patching.describe(checkout) == "somebody/other at c233a91"
    edit(checkout / "train.py", "Train a GAN", "Train another GAN")
    assert "by its structure" in patching.describe(checkout)


# What is no checkout, or one of another structure


def test_a_path_that_is_no_checkout(tmp_path, checkout, capsys):
    assert f"no such folder: {checkout}x\n" in refusal(capsys, f"{checkout}x")
    said = refusal(capsys, checkout / "train.py")
    assert f"train.py is a file; name the folder with train.py of a checkout, such as {checkout}\n" in said
    said = refusal(capsys, tmp_path)
    assert f"{tmp_path} is no checkout itself; name the one in or around it: {checkout}\n" in said
    assert f"around it: {checkout}\n" in refusal(capsys, checkout / "dnnlib")
    (tmp_path / "a/b").mkdir(parents=True)
    assert "is no checkout itself: there is no dnnlib/__init__.py in it" in refusal(capsys, tmp_path / "a/b")


def test_places_that_are_missing_are_named_with_what_to_do_by_hand(checkout, capsys):
    edit(checkout / "train.py", "launch_training(c=c", "start(c=c")
    edit(checkout / places.LOOP, 'device = torch.device("cuda", rank)', "pass")
    before = contents(checkout)
    said = refusal(capsys, checkout)
    assert said.splitlines()[:3] == [
        f"gan-regularizers: {checkout} lacks places that our lines belong to. Nothing was changed.",
        "  training_loop() in training/training_loop.py sets no device",
        "  train.py: looked for one command of click that calls launch_training(c, desc) or "
        "setup_training_loop_kwargs(), found 0 such calls in main()",
    ]
    assert "    device = dnnlib.modern_torch.prepare(device)\n" in said
    assert contents(checkout) == before
    assert "lacks places" in refusal(capsys, checkout, "--check", "--only", "modern-torch")


def test_each_line_to_insert_by_hand_is_one_of_ours():
    lines = [line.strip() for line in patching._BY_HAND.splitlines() if line.startswith("    ")]
    assert len(lines) == 5
    for line in lines:
        text = f"{lines[2]}\n{line}\ndef f(): pass\n" if line.startswith("@") else f"{lines[2]}\n{line}\n"
        assert line.encode() not in places.remove(text.encode())


# What people do to their trees


@pytest.mark.parametrize(("path", "line"), [("train.py", "@regularizers.options"), (places.LOOP, "prepare(device)")])
def test_the_comment_of_a_line_was_removed(checkout, path, line):
    before = contents(checkout)
    patch(checkout)
    edit(checkout / path, f"{line}  # gan_regularizers", line)
    patch(checkout, "--reverse")
    assert contents(checkout) == before


def test_a_patched_tree_was_formatted(checkout):
    """As by black: quotes, blank lines, and lines broken with the mark on the last one."""
    patch(checkout)
    for path in COUNTS:
        text = (checkout / path).read_text()
        text = text.replace("prepare(device)", "prepare(\n        device\n    )")
        text = text.replace("configure(c, desc)", "configure(\n        c, desc\n    )").replace(
            "import click", "import click\n"
        )
        (checkout / path).write_text(text)
    patch(checkout, "--reverse")
    for path in COUNTS:
        assert b"regularizers" not in (checkout / path).read_bytes()
    assert (checkout / "train.py").read_text() == LAUNCHED.replace("import click", "import click\n")
    assert (checkout / places.LOOP).read_text() == LOOP


def test_something_was_put_around_our_lines(checkout, capsys):
    patch(checkout)
    old = "    desc = regularizers.configure(c, desc)  # gan_regularizers\n"
    edit(checkout / "train.py", old, f"    if opts.dry_run:\n    {old}")
    before = contents(checkout)
    said = refusal(capsys, checkout, "--reverse")
    assert "train.py would be no code without our lines; take what was put around them out by hand\n" in said
    assert contents(checkout) == before
    edit(checkout / "train.py", "    if opts.dry_run:\n", "    if opts.dry_run:\n        pass\n")
    patch(checkout, "--reverse")
    assert "    if opts.dry_run:\n        pass\n" in (checkout / "train.py").read_text()


def test_all_files_were_edited_before_and_after(checkout):
    for path in COUNTS:
        (checkout / path).write_text("# mine\n" + (checkout / path).read_text())
    patch(checkout)
    for path in COUNTS:
        (checkout / path).write_text((checkout / path).read_text() + "# more\n")
    patch(checkout, "--reverse")
    assert (checkout / "train.py").read_text() == f"# mine\n{LAUNCHED}# more\n"


@pytest.mark.parametrize("change", [lambda b: b"\xef\xbb\xbf" + b, lambda b: b.rstrip(b"\n"), lambda b: b + b"\n"])
def test_a_byte_order_mark_or_the_last_newline_differs(checkout, change):
    for path in COUNTS:
        (checkout / path).write_bytes(change((checkout / path).read_bytes()))
    before = contents(checkout)
    patch(checkout)
    for path in COUNTS:
        compile((checkout / path).read_bytes(), path, "exec")
    patch(checkout, "--reverse")
    assert contents(checkout) == before


def test_our_lines_in_a_docstring_or_an_uncalled_function_are_not_enough(checkout):
    lines = "    c = desc = 1\n    desc = regularizers.configure(c, desc)\n"
    edit(checkout / "train.py", '    """Train a GAN."""', '    """Train a GAN.\n\n    @regularizers.options\n    """')
    edit(checkout / "train.py", "@click.command()", f"def unused():\n{lines}\n\n@click.command()")
    ours = "from gan_regularizers.adapters import stylegan as regularizers\n"
    edit(checkout / "train.py", "import dnnlib\n", f"import dnnlib\n{ours}")
    patch(checkout)
    assert places.of_script(checkout).inserted() == (checkout / "train.py").read_bytes()
    text = (checkout / "train.py").read_text()
    assert text.count("regularizers.configure(") == 1
    assert text.index("def main(") < text.index("regularizers.configure(") < text.index("    launch_training(c=c")


def test_a_line_of_ours_was_deleted(checkout, capsys):
    patch(checkout)
    patched = contents(checkout)
    edit(checkout / "train.py", "@regularizers.options  # gan_regularizers\n", "")
    capsys.readouterr()
    patch(checkout)
    assert "train.py          1 line inserted" in capsys.readouterr().out
    assert contents(checkout) == patched


def test_a_tree_of_version_0_1_0(checkout):
    """Its lines are taken for ours, in the files too that get none any more."""
    before = contents(checkout)
    edit(
        checkout / places.DNNLIB,
        "from .util",
        "from gan_regularizers.adapters import modern_torch # Not found? pip\nfrom .util",
    )
    (checkout / "pg_modules").mkdir()
    projector = checkout / "pg_modules/projector.py"
    projector.write_text("import timm\nfrom gan_regularizers.adapters import efficientnet_lite as timm\n")
    edit(
        checkout / "train.py",
        "import torch\n",
        "import torch\nfrom gan_regularizers.adapters import stylegan as regularizers\n",
    )
    patch(checkout, "--reverse")
    assert projector.read_text() == "import timm\n"
    projector.unlink()
    assert contents(checkout) == before


def test_a_loop_that_is_elsewhere(checkout):
    (checkout / "loops").mkdir()
    (checkout / places.LOOP).rename(checkout / "loops/training_loop.py")
    edit(checkout / "train.py", "from training import", "from loops import")
    before = contents(checkout)
    patch(checkout)
    assert "prepare(device)" in (checkout / "loops/training_loop.py").read_text()
    patch(checkout, "--reverse")
    assert contents(checkout) == before


def test_lines_that_end_as_on_old_computers(checkout, capsys):
    path = checkout / "train.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    patch(checkout)
    assert "train.py                  3 lines inserted" in capsys.readouterr().out


def test_the_first_patch_needs_no_train_py(checkout):
    (checkout / "train.py").unlink()
    patch(checkout, "--only", "modern-torch")
    assert "prepare(device)" in (checkout / places.LOOP).read_text()


# Files that may not be written


@pytest.mark.parametrize("option", [[], ["--reverse"]])
def test_a_read_only_file_is_refused(checkout, capsys, option):
    if option:
        patch(checkout)
    before = contents(checkout)
    (checkout / "train.py").chmod(0o444)
    said = refusal(capsys, checkout, *option)
    assert f"{checkout}/train.py is read-only; make it writable, or use gan-regularizers run" in said
    assert contents(checkout) == before


def test_files_that_are_shared_by_a_link_are_refused(checkout, tmp_path, capsys):
    shared = tmp_path / "shared"
    (checkout / "dnnlib").rename(shared)
    (checkout / "dnnlib").symlink_to(shared)
    before = contents(shared)
    said = refusal(capsys, checkout)
    assert f"{checkout}/dnnlib/__init__.py is {shared}/__init__.py, so all who share that would get our lines" in said
    assert contents(shared) == before
    assert (checkout / "train.py").read_text() == LAUNCHED


def test_links_inside_the_checkout_and_to_it_are_followed(checkout, tmp_path):
    real = checkout / "train_real.py"
    (checkout / "train.py").rename(real)
    (checkout / "train.py").symlink_to(real)
    (tmp_path / "link").symlink_to(checkout)
    patch(tmp_path / "link")
    assert (checkout / "train.py").is_symlink()
    assert "regularizers.options" in real.read_text()
    patch(tmp_path / "link", "--reverse")
    assert real.read_text() == LAUNCHED


def test_a_folder_that_may_not_be_written_in(checkout, monkeypatch, capsys):
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: may(path, mode) and Path(path) != checkout / "training")
    said = refusal(capsys, checkout)
    assert f"{checkout}/{places.LOOP}: you may not write in its folder" in said


def test_permissions_stay(checkout):
    (checkout / "train.py").chmod(0o755)
    for option in ([], ["--reverse"]):
        patch(checkout, *option)
        assert (checkout / "train.py").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("method", ["replace", "write_bytes"])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("option", [[], ["--reverse"]])
def test_all_files_or_none(checkout, option, method, nth, error, monkeypatch, capsys):
    calls, real = [], getattr(Path, method)

    def fails_once(self, *arguments):
        calls.append(self)
        if len(calls) == nth:
            raise error
        return real(self, *arguments)

    if option:
        patch(checkout)
    before = contents(checkout)
    monkeypatch.setattr(Path, method, fails_once)
    space = f"{checkout}: No space left on device. Nothing was changed"
    status, said = (1, space) if isinstance(error, OSError) else (130, "interrupted")
    assert main(["patch", str(checkout), *option]) == status
    assert capsys.readouterr().err == f"gan-regularizers: {said}\n"
    assert contents(checkout) == before  # with no temporary file left


def test_what_would_not_compile_is_not_written(checkout, monkeypatch, capsys):
    """None of the files, though the last one alone is wrong."""
    monkeypatch.setattr(places.Change, "inserted", lambda change: b"if\n" if change.path == "train.py" else b"x = 1\n")
    before = contents(checkout)
    assert "train.py would be no code any more (" in refusal(capsys, checkout)
    assert contents(checkout) == before


# The patch files


def test_git_takes_patches_of_this_form(checkout, tmp_path):
    """Each hunk inserts lines at the place that the tool finds."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    text = ""
    for change in (change for finds in patching.PATCHES.values() for find in finds for change in find(checkout)):
        text += f"--- a/{change.path}\n+++ b/{change.path}\n"
        for i, insertion in enumerate(change.insertions, start=1):
            text += f"@@ -{insertion.after},0 +{insertion.after + i} @@\n+{insertion.line}\n"
    (tmp_path / "both.patch").write_text(text)
    before = contents(checkout)
    patch(checkout)
    patched = contents(checkout)
    patch(checkout, "--reverse")
    for option, expected in ([], patched), (["--reverse"], before):
        line = ["git", "-c", "core.autocrlf=false", "apply", "--unidiff-zero", *option, str(tmp_path / "both.patch")]
        subprocess.run(line, cwd=checkout, check=True)
        assert contents(checkout) == expected


def test_the_patches_of_a_wheel_and_of_a_source_tree(tmp_path):
    package = tmp_path / "site-packages/gan_regularizers"
    package.mkdir(parents=True)
    assert patching.patches_folder(package) == package.parent / "patches"
    (package / "patches").mkdir()
    assert patching.patches_folder(package) == package / "patches"
    assert patching.patches_folder(patching.PACKAGE).parent in (patching.PACKAGE, patching.PACKAGE.parent)


@pytest.mark.skipif(not PATCHES.exists(), reason="this tree has no patches")
def test_the_patches_of_the_package():
    """They insert marked lines and nothing else, into files of which the pin has the blob."""
    pins = patching.pins(PATCHES)
    assert len(pins) == 4
    headers = r"--- a/.+|\+\+\+ b/.+|@@ -\d+,0 \+\d+ @@"
    for pin in pins:
        assert all(re.fullmatch("[0-9a-f]{40}", sha) for sha in (pin.commit, *pin.files.values()))
        touched = set()
        for name, paths in {"modern-torch": COUNTS.keys() - {"train.py"}, "regularizers": {"train.py"}}.items():
            text = (PATCHES / pin.name / f"{name}.patch").read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if not re.fullmatch(headers, line)]
            assert all(re.fullmatch(r"\+.*  # gan_regularizers( \(not found\? .*\))?", line) for line in lines)
            assert set(re.findall(r"^--- a/(.+)$", text, flags=re.MULTILINE)) == set(paths)
            touched |= set(paths)
        assert touched == set(pin.files)
