"""The commands on machines, terminals and disks as people have them, and with names as people give them."""

import errno
import io
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gan_regularizers.commands import info, main
from gan_regularizers.io import files, plots, terminal
from gan_regularizers.io.errors import CommandError
from gan_regularizers.spider.image_latents import ImageLatents

COMMAND = [sys.executable, "-m", "gan_regularizers"]
SCRIPT = Path(sys.executable).with_name("gan-regularizers")
ODD_NAMES = [
    b"a$^$b",
    b"x_${",
    b"price $5 vs $6",
    b"lat\xe9in",
    b"two\nlines\x1b[31m",
    "画".encode() * 85,
    b"x" * 255,
    b"_",
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with a picture."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save("picture.png")
    return tmp_path


@pytest.fixture
def sets(folder) -> list[str]:  # noqa: ARG001
    """The arguments of ``neighbours`` for two small sets."""
    random = np.random.default_rng(0)
    for name in ("target", "source"):
        Path(name).mkdir()
        for i in range(4):
            Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(f"{name}/{i}.png")
    return ["neighbours", "target", "source"]


@given(st.text(st.characters(codec=None), max_size=20))
def test_what_is_printed_is_one_line_without_commands_to_a_terminal(text):
    shown = terminal.printable(text)
    assert shown.splitlines() in ([], [shown])
    assert "\x1b" not in shown
    shown.encode()
    if text.isprintable():
        assert shown == text


def test_bytes_of_a_name_are_shown_as_bytes():
    assert terminal.printable(os.fsdecode(b"lat\xe9in \\ \xff\n\x85\xc2\xa0")) == "lat\\xe9in \\ \\xff\\n\\x85\xa0"


def test_what_turns_or_hides_a_name_is_escaped_and_what_joins_letters_is_not():
    assert terminal.printable("\u202egnp.a \u2066\ufeff\u200b") == r"\u202egnp.a \u2066\ufeff\u200b"
    assert terminal.printable(joined := "👨\u200d👩\u200d👧 می\u200cشد") == joined


def test_figures_after_a_name_from_right_to_left_stay_there():
    mark = plots.LEFT_TO_RIGHT
    with plots.fonts_for("שלום"):
        assert plots.label("1. שלום 8: -6.1 ± 2", 100) == f"{mark}1. שלום{mark} 8: -6.1 ± 2"
        assert plots.label("אב" * 3, 4).splitlines() == [f"{mark}אבאב{mark}", f"{mark}אב{mark}"]
        assert plots.label("1. plain: -6.1 ± 2", 100) == "1. plain: -6.1 ± 2"


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.usefixtures("folder")
def test_preview_takes_any_name(capsys, name):
    path = os.fsdecode(name[:251] + b".png")
    Path("picture.png").rename(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of a character that no font has
        assert main(["preview", path, "--out", "out.png"]) == 0
    with Image.open("out.png") as drawn:
        assert drawn.width > 1000
    Path(path).write_bytes(b"no picture")
    assert main(["preview", path, "--out", "out.png"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert terminal.printable(path) in line


def test_names_are_drawn_as_they_are():
    """In lines that fit, no part of them as a formula, and what no font has as Python writes it."""
    with plots.fonts_for(chinese := "画" * 10, missing := "\U0001fbff\U000e0001"):
        assert plots.label("a$^$b\n", 20) == "a$^$b\\n"
        assert plots.label("x" * 45, 20).splitlines() == ["x" * 20, "x" * 20, "x" * 5]
        assert set(map(len, plots.label(chinese, 10).splitlines())) in ({5}, {10})  # with a font that has it, without
        assert "\\U000e0001" in plots.label(missing, 100)
        assert not matplotlib.rcParams["text.parse_math"]
    assert matplotlib.rcParams["text.parse_math"]


@pytest.mark.parametrize("encoding", ["ascii", "cp866", "latin-1"])
def test_terminals_of_few_characters(sets, monkeypatch, encoding):
    Path("source").rename("画 й é")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*sets[:2], "画 й é", "--cache", "cache"]) == 0
    shown = stdout.buffer.getvalue().decode(encoding)
    assert {"ascii": r"\u753b \u0439 \xe9", "cp866": r"\u753b й \xe9", "latin-1": r"\u753b \u0439 é"}[encoding] in shown
    assert ("± is" if encoding == "latin-1" else "+- is") in shown


def test_the_results_are_there_whatever_becomes_of_the_terminal(sets, monkeypatch):
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Broken())
    assert main([*sets, "--cache", "cache", "--json", "out.json"]) == 141
    assert Path("out.json").exists()
    assert Path("neighbours.png").exists()


def test_a_narrow_terminal_cuts_no_figure_off(sets, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    assert main([*sets, "--cache", "cache", "--json", "out.json"]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= len("Wrote neighbours.png and out.json")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("pipe.png", "which would be replaced; name a file"),
        ("link.png", "which would be replaced; name a file"),
        ("loop.png", "which would be replaced; name a file"),
        ("target/chart.png", "is inside of target, whose pictures are read; name another place"),
        ("source/0.png", "is inside of source, whose pictures are read; name another place"),
    ],
)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the files of POSIX")
def test_what_a_chart_must_not_replace_or_join(sets, monkeypatch, capsys, path, said):
    monkeypatch.setattr("gan_regularizers.spider.features.feature_space", pytest.fail)
    os.mkfifo("pipe.png")
    Path("link.png").symlink_to("gone.png")
    Path("loop.png").symlink_to("loop.png")
    before = Path("source/0.png").read_bytes()
    assert main([*sets, "--chart", path]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--chart {path}" in line
    assert said in line
    assert Path("source/0.png").read_bytes() == before


@pytest.mark.parametrize("arguments", [["neighbours", "target", "loop"], ["demo", "--data", "loop"], ["run", "loop"]])
@pytest.mark.usefixtures("sets")
def test_links_that_lead_in_a_circle(capsys, arguments):
    Path("loop").symlink_to("loop")
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "loop does not exist" in line


@pytest.mark.usefixtures("folder")
def test_a_name_that_is_but_a_suffix():
    files.check_output("--chart", Path(".png"), ".png")


def test_errors_of_the_system_name_files_as_they_are(capsys):
    name = os.fsdecode(b"\xe9" * 256)
    assert main(["preview", name]) == 1
    assert capsys.readouterr().err == f"gan-regularizers: {terminal.printable(name)}: File name too long\n"


def full(path: Path, _: bytes) -> None:
    """Stands for what writes a file."""
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_disk_that_is_full_afterwards_leaves_the_ranking_on_the_terminal(sets, monkeypatch, capsys):
    monkeypatch.setattr("gan_regularizers.io.plots.write_atomically", full)
    assert main([*sets, "--cache", "cache", "--json", "out.json"]) == 1
    said = capsys.readouterr()
    assert "1. source" in said.out
    assert "Wrote" not in said.out
    assert "No space left on device" in said.err
    assert Path("out.json").exists()


def test_a_disk_that_is_full_afterwards_leaves_the_times_on_the_terminal(folder, monkeypatch, capsys):  # noqa: ARG001
    monkeypatch.setattr("gan_regularizers.io.plots.write_atomically", full)
    small = "--no-compile --shapes 2x3x8x8 --seconds 0.01 --dtypes float32 --parts color --modes forward".split()
    assert main(["bench", "--device", "cpu", *small, "--json", "out.json"]) == 1
    said = capsys.readouterr()
    assert "in times of ours" in " ".join(said.out.split())  # which stands below the table
    assert "No space left on device" in said.err


def test_a_disk_that_is_full_before_is_said_before_the_work(folder, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CommandError, match=r"--json .*out.json: No space left on device"):
        files.check_output("--json", folder / "out.json", ".json")


def test_features_that_cannot_be_kept_are_used_all_the_same(sets, monkeypatch, capsys):
    monkeypatch.setattr("gan_regularizers.spider.features.write_atomically", full)
    monkeypatch.setenv("COLUMNS", "500")
    assert main([*sets, "--cache", "cache"]) == 0
    assert capsys.readouterr().out.count("are not kept: cache/") == 2


@pytest.mark.parametrize("home", [None, "/proc"])
def test_no_home_to_keep_features_in(sets, monkeypatch, capsys, home):
    for name in (files.CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home:
        monkeypatch.setenv("HOME", home)
    else:

        def expanduser(_: Path) -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "expanduser", expanduser)
    assert main(sets) == 0
    assert "Features are not kept" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--json", "--chart", "--cache"])
def test_what_cannot_be_written_is_said_before_the_work(sets, monkeypatch, capsys, option):
    monkeypatch.setattr("gan_regularizers.spider.features.feature_space", pytest.fail)
    suffix = {"--json": ".json", "--chart": ".png", "--cache": ""}[option]
    paths = {f"{'x' * 256}{suffix}": "name too long", f"target/0.png/out{suffix}": "", f"/proc/out{suffix}": ""}
    for path, said in paths.items():
        assert main([*sets, option, path]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{option} {path}" in line
        assert said in line


def test_a_file_whose_name_is_as_long_as_the_system_has_them(folder):
    path = folder / f"{'x' * 250}.json"
    files.check_output("--json", path, ".json")
    files.write_atomically(path, b"{}")
    assert sorted(entry.name for entry in folder.iterdir()) == ["picture.png", path.name]


def test_a_file_that_may_not_be_written_is_said_before_the_work(folder, monkeypatch):
    path = folder / "out.json"
    path.touch()
    path.chmod(stat.S_IRUSR)
    monkeypatch.setattr(os, "access", lambda path, _: bool(Path(path).stat().st_mode & stat.S_IWUSR))
    with pytest.raises(CommandError, match=r"--json .*out.json: no permission to write to it"):
        files.check_output("--json", path, ".json")


def test_an_error_in_writing_names_the_file(folder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (folder / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder'$"):
        files.write_atomically(folder / "folder", b"content")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*out.json'$"):
        files.write_atomically(folder / "out.json", b"content")
    assert sorted(entry.name for entry in folder.iterdir()) == ["folder", "picture.png"]


@pytest.mark.parametrize("arguments", [["info"], ["patch", "--list"], ["--help"], ["preview", "picture.png"]])
@pytest.mark.usefixtures("folder")
def test_stdout_that_nobody_reads_is_full_or_closed(arguments, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is held back fails at the end
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141 if arguments != ["--help"] else 0, "")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.stderr.count("\n") == (arguments != ["--help"])
    assert "Traceback" not in done.stderr
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert not done.stderr or arguments == ["--help"]  # which then goes there


@pytest.mark.skipif(not SCRIPT.exists(), reason="the script is not beside this Python")
@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.0, 2.0])
def test_an_interrupt_at_any_time_leaves_no_traceback(seconds):
    process = subprocess.Popen([SCRIPT, "info"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    assert process.returncode in (0, 130, -signal.SIGINT)


def test_a_command_that_has_loaded_listens_to_interrupts():
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        assert main(["patch", "--list"]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_importing_the_package_leaves_interrupts_to_others():
    script = "import signal, gan_regularizers; assert signal.getsignal(2) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(info.building, "report", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "gan-regularizers: interrupted\n"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_makes_no_difference_to_latents(dtype):
    class Generator(torch.nn.Module):
        z_dim = 8

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.tanh(z.repeat(1, 24)).view(-1, 3, 8, 8)

    z = torch.randn(6, 16)
    expected = ImageLatents(Generator(), 16)(z)
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(ImageLatents(Generator(), 16)(z), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "arguments", [["preview", ""], ["neighbours", "a", ""], ["demo", "--out", ""], ["bench", "--json="]]
)
def test_an_empty_name_is_no_folder(arguments, capsys):
    """As of a variable of the shell that is not set."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert "an empty name is no path" in line


@pytest.mark.usefixtures("folder")
def test_more_pictures_than_fit_are_refused(capsys):
    assert main(["preview", *["picture.png"] * 33]) == 1
    assert "33 images; at most 32 fit" in capsys.readouterr().err
