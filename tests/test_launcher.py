"""A script of a checkout, run as it is: by ``gan-regularizers run``, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import LAUNCHED, LOOP, contents, write

from gan_regularizers.commands import main

# As a person's, on a machine without a GPU.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}
RUN = ("-m", "gan_regularizers", "run")


def python(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def checkout(tmp_path) -> Path:
    return write(tmp_path / "my GANs é")


def seen(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_ranks_get_our_lines_and_the_checkout_stays(checkout, tmp_path):
    """From another folder, with a path as people type it."""
    before = contents(checkout)
    out = tmp_path / "out"
    out.mkdir()
    script = f"{checkout.name}/train.py"
    options = (f"--outdir={out}", "--gpus=2", "--reg=diffaug+diffusion")
    done = python(*RUN, script, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    described = f"gan-regularizers: running {script} with --reg: training_loop() has an augment_pipe and"
    assert done.stderr.startswith(described)
    assert done.stderr.count("gan-regularizers: ") == 1
    assert seen(out) == [{"pipe": "Pipe", "device": "cpu", "switched": False, "p": 0.0}] * 2
    assert json.loads(done.stdout)["desc"] == "run-diffaug-diffusion"
    assert contents(checkout) == before


def test_help_shows_the_options_of_both(checkout):
    done = python(*RUN, "train.py", "--help", cwd=checkout)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: train.py [OPTIONS]")
    assert done.stdout.index("--dry-run") < done.stdout.index("--reg ") < done.stdout.index("--spider ")


def test_a_patched_checkout_is_run_as_well(checkout, tmp_path):
    options = (f"--outdir={tmp_path}", "--reg=diffusion")
    assert python(*RUN, "train.py", *options, cwd=checkout).returncode == 0
    launched = seen(tmp_path)
    assert main(["patch", str(checkout)]) == 0
    for line in (("train.py",), (*RUN, "train.py")):
        done = python(*line, *options, cwd=checkout)
        assert done.returncode == 0, done.stderr
        assert seen(tmp_path) == launched


@pytest.mark.parametrize(("options", "status"), [("--seed=13", 1), ("--seed=14", 14), ("--nonsense", 2)])
def test_output_status_and_traceback_are_upstreams_own(checkout, tmp_path, options, status):
    """As of a patched checkout, where each line is as it is in the original but for ours."""
    line = ("train.py", f"--outdir={tmp_path}", options)
    launched = python(*RUN, *line, cwd=checkout)
    assert main(["patch", str(checkout)]) == 0
    own = python(*line, cwd=checkout)
    assert (launched.returncode, launched.stdout) == (own.returncode, own.stdout) == (status, own.stdout)
    _, _, error = launched.stderr.partition("\n")
    if options != "--seed=13":
        return
    assert error.startswith("Traceback (most recent call last):\n")
    assert error.endswith("ValueError: unlucky\n")
    frames = [text for text in error.splitlines() if text.startswith("  File ")]
    assert frames[0] == f'  File "{checkout}/train.py", line {_number(LAUNCHED, "    main()", last=True)}, in <module>'
    assert f'  File "{checkout}/train.py", line {_number(LAUNCHED, "    launch_training(c=c")}, in main' in frames
    number = _number(LOOP, "raise ValueError")
    assert frames[-1] == f'  File "{checkout}/training/training_loop.py", line {number}, in training_loop'
    assert "gan_regularizers" not in error


def _number(text: str, start: str, last: bool = False) -> int:
    found = [i for i, line in enumerate(text.splitlines(), start=1) if start in line]
    return found[-1 if last else 0]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_is_upstreams_own(checkout, tmp_path):
    line = [sys.executable, *RUN, "train.py", f"--outdir={tmp_path}", "--seed=15"]
    with subprocess.Popen(
        line, cwd=checkout, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.stdout.readline() != "waiting\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert "gan-regularizers: interrupted" not in error
    assert process.returncode == 1  # as click has it
    assert error.endswith("Aborted!\n")


def test_other_scripts_get_what_they_need_of_current_pytorch(checkout):
    done = python(*RUN, "gen_images.py", "--seed=3", cwd=checkout)
    assert done.stdout == "__main__ ['gen_images.py', '--seed=3'] 3 dnnlib\n"
    assert done.stderr == "gan-regularizers: running gen_images.py with what it needs of current PyTorch\n"
    done = python(*RUN, "gen_images.py", "--reg=diffusion", cwd=checkout)
    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_under_torchrun_one_rank_says_what_is_run(checkout, tmp_path):
    line = (*RUN, "train.py", f"--outdir={tmp_path}", "--reg=diffusion")
    environment = {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    said = [python(*line, cwd=checkout, RANK=rank, **environment).stderr for rank in "01"]
    assert ["gan-regularizers" in text for text in said] == [True, False]


def test_a_script_in_a_folder_of_the_checkout(checkout, tmp_path):
    (checkout / "scripts").mkdir()
    (checkout / "train.py").rename(checkout / "scripts/start.py")
    edited = "import sys\nsys.path.append('.')\n" + (checkout / "scripts/start.py").read_text()
    (checkout / "scripts/start.py").write_text(edited)
    done = python(*RUN, "scripts/start.py", f"--outdir={tmp_path}", "--reg=diffusion", cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert seen(tmp_path)[0]["pipe"] == "Pipe"


def test_a_script_gets_our_lines_into_the_loop_that_it_calls(checkout, tmp_path):
    (checkout / "training/training_loop.py").rename(checkout / "training/another_loop.py")
    (checkout / "train.py").rename(checkout / "train_other.py")
    edited = (checkout / "train_other.py").read_text().replace("training_loop\n", "another_loop\n")
    (checkout / "train_other.py").write_text(edited.replace("    training_loop.", "    another_loop."))
    done = python(*RUN, "train_other.py", f"--outdir={tmp_path}", "--reg=diffusion", cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert seen(tmp_path) == [{"pipe": "Pipe", "device": "cpu", "switched": False, "p": 0.0}]


SAYS = """import atexit, builtins, inspect, multiprocessing, os, pickle, sys, dnnlib
class Mine: pass
if __name__ == "__main__":
    print(sys.argv, __file__, __name__, __package__, __builtins__ is builtins, sys.path[0])
    print([path for path in sys.path if path.startswith(os.environ["HERE"])])
    print(pickle.loads(pickle.dumps(Mine)) is Mine, inspect.getsource(Mine), sys.modules["__main__"].Mine is Mine)
    atexit.register(lambda: print(pickle.dumps(Mine)))
"""


@pytest.mark.parametrize("way", ["plain", "link", "dots"])
def test_a_script_finds_itself_as_python_shows_it(checkout, tmp_path, way):
    """Arguments that look like ours, a script that is a link, and a path through another checkout."""
    here = write(tmp_path / "another")
    (checkout / "says.py").write_text(SAYS)
    script = {"plain": "./says.py", "link": "link.py", "dots": f"../{checkout.name}/says.py"}[way]
    cwd = {"plain": checkout, "link": tmp_path, "dots": here}[way]
    (tmp_path / "link.py").symlink_to(checkout / "says.py")
    line = (script, "--", "-h", "--help", "--version")
    own, launched = (python(*way, *line, cwd=cwd, HERE=str(tmp_path)) for way in ((), RUN))
    assert launched.stdout == own.stdout
    assert launched.returncode == own.returncode == 0


def test_what_a_script_hides_from_cuda_stays_hidden(checkout):
    """Nothing looks for devices before the script's first line."""
    (checkout / "gen_images.py").write_text(
        "import sys\nprint('gan_regularizers.adapters.modern_torch' in sys.modules)\nimport dnnlib\n"
        "print('gan_regularizers.adapters.modern_torch' in sys.modules)\n"
    )
    assert python(*RUN, "gen_images.py", cwd=checkout).stdout == "False\nTrue\n"


def test_a_script_that_is_no_code(checkout):
    (checkout / "gen_images.py").write_text("if x\n")
    own, launched = python("gen_images.py", cwd=checkout), python(*RUN, "gen_images.py", cwd=checkout)
    assert launched.stderr.partition("\n")[2] == own.stderr
    assert launched.returncode == own.returncode == 1


# What is refused


def refusal(capsys, *arguments: str | Path) -> str:
    assert main(["run", *map(str, arguments)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_what_is_no_script_of_a_checkout(checkout, tmp_path, capsys):
    assert f"{tmp_path}/train.py does not exist" in refusal(capsys, tmp_path / "train.py")
    assert "is a folder; name the script in it, such as train.py" in refusal(capsys, checkout, "--reg=diffusion")
    alone = tmp_path / "train.py"
    alone.write_text("print(1)\n")
    said = refusal(capsys, alone)
    assert "train.py is in no checkout: there is no dnnlib/__init__.py beside it or in a folder above it" in said


def test_training_of_an_unknown_kind(checkout, capsys):
    (checkout / "train.py").write_text(
        "import argparse\nfrom training import training_loop\ntraining_loop.training_loop()\n"
    )
    said = refusal(capsys, checkout / "train.py", "--reg=diffusion")
    assert "train.py: looked for one command of click that calls launch_training(c, desc) or" in said
    assert said.endswith("found argparse\n")


def test_without_a_script_the_command_says_so(capsys):
    for line, said in ((["run"], "SCRIPT"), (["run", "--help"], "such as PATH/train.py")):
        with pytest.raises(SystemExit):
            main(line)
        captured = capsys.readouterr()
        assert said in captured.out + captured.err
