"""Where our lines belong, by the structure of the code."""

import ast
import re
import warnings
from pathlib import Path
from types import CodeType

import pytest
from checkouts import LAUNCHED, LOOP, PACKAGE, SET_UP, write
from hypothesis import given
from hypothesis import strategies as st

from gan_regularizers.adapters import places
from gan_regularizers.adapters.places import ADAPTERS, Change, NoPlaceError


def of_loop(root: Path) -> Change:
    (change,) = places.of_loops(root)
    return change


FIND = (places.of_package, of_loop, places.of_script)


def inserted(folder: Path, find) -> list[str]:
    """Each of our lines, with the line above it."""
    lines = find(folder).inserted().decode().splitlines()
    return [
        f"{above.strip()} > {line}" for above, line in zip(["", *lines], lines, strict=False) if places.MARK in line
    ]


def test_lines_as_of_stylegan3(tmp_path):
    write(tmp_path)
    mark = "  # gan_regularizers"
    assert inserted(tmp_path, places.of_package) == [
        "from __future__ import annotations > from gan_regularizers.adapters import modern_torch"
        f"{mark} (not found? pip install gan-regularizers)"
    ]
    assert inserted(tmp_path, of_loop) == [
        f"grid_sample_gradfix.enabled = True >     device = dnnlib.modern_torch.prepare(device){mark}"
    ]
    assert inserted(tmp_path, places.of_script) == [
        f"from training import training_loop > from gan_regularizers.adapters import stylegan as regularizers{mark}",
        f'@click.option("--dry-run", is_flag=True) > @regularizers.options{mark}',
        f" >     desc = regularizers.configure(c, desc){mark}",
    ]


def test_lines_as_of_stylegan2_ada(tmp_path):
    write(tmp_path, train=SET_UP)
    assert inserted(tmp_path, places.of_script)[1:] == [
        '@click.option("--dry-run", is_flag=True) > @regularizers.options  # gan_regularizers',
        "ctx.fail(err) >     run_desc = regularizers.configure(args, run_desc)  # gan_regularizers",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "launch_training(c=c, desc=desc, dry_run",
            "launch_training(c, desc, dry_run",
            "    desc = regularizers.configure(c, desc)",
        ),
        (
            "launch_training(c=c, desc=desc, dry_run",
            "launch_training(desc=desc, c=c, dry_run",
            "    desc = regularizers.configure(c, desc)",
        ),
        (
            "    launch_training(c=c, desc=desc",
            "    if opts:\n    \tlaunch_training(c=c, desc=desc",
            "    \tdesc = regularizers.configure(c, desc)",
        ),
        (
            "    launch_training(c=c, desc=desc, dry_run=opts.dry_run)",
            "    train(c, desc)\n\n\ndef train(kwargs, name):\n    launch_training(c=kwargs, desc=name, dry_run=1)",
            "    name = regularizers.configure(kwargs, name)",
        ),
        (
            "@click.command()",
            "@click.group().command('train', context_settings={})",
            "    desc = regularizers.configure(c, desc)",
        ),
        ("import dnnlib\n", "import dnnlib; import os\n", "    desc = regularizers.configure(c, desc)"),
    ],
)
def test_forks_that_launch_otherwise(tmp_path, old, new, line):
    assert LAUNCHED.count(old) == 1
    write(tmp_path, train=LAUNCHED.replace(old, new))
    assert inserted(tmp_path, places.of_script)[-1].endswith(f" > {line}  # gan_regularizers")
    compile(places.of_script(tmp_path).inserted(), "train.py", "exec")


@pytest.mark.parametrize(
    ("loop", "line", "above"),
    [
        (
            LOOP.replace("    conv2d_gradfix.enabled = True\n    grid_sample_gradfix.enabled = True\n", ""),
            1,
            "device = torch.device",
        ),
        (
            LOOP.replace('    device = torch.device("cuda", rank)\n', "    device, start = set_up(rank)\n"),
            1,
            "grid_sample_gradfix.enabled",
        ),
        (
            LOOP.replace('    device = torch.device("cuda", rank)\n', "    if rank:\n        device = 1\n"),
            1,
            "grid_sample_gradfix.enabled",
        ),
        (
            LOOP.replace("    rank=0,", "    device, rank=0,").replace('    device = torch.device("cuda", rank)\n', ""),
            1,
            "grid_sample_gradfix.enabled",
        ),
        (
            LOOP.split("    device = ")[0].replace("    rank=0,", "    device, rank=0,")
            + '    """Train."""\n    pass\n',
            1,
            '"""Train."""',
        ),
    ],
)
def test_loops_that_set_the_device_otherwise(tmp_path, loop, line, above):
    write(tmp_path, loop=loop)
    found = inserted(tmp_path, of_loop)
    assert len(found) == line
    assert found[0].startswith(above)


# What is not there


@pytest.mark.parametrize(
    ("find", "file", "old", "new", "said"),
    [
        (places.of_package, "package", "", None, "there is no dnnlib/__init__.py"),
        (places.of_package, "package", "from .util import EasyDict\n", "", "dnnlib/__init__.py has no import"),
        (of_loop, "loop", "", None, "there is no training/training_loop.py"),
        (of_loop, "loop", "def training_loop(", "def loop(", "has no function training_loop(); it has loop()"),
        (of_loop, "loop", "import dnnlib\n", "", "training_loop.py does not import dnnlib"),
        (of_loop, "loop", '    device = torch.device("cuda", rank)\n', "", "training_loop.py sets no device"),
        (of_loop, "loop", '"cuda", rank)\n', '"cuda", rank); x = (\n1)\n', None),
        (
            of_loop,
            "loop",
            "grid_sample_gradfix.enabled = True",
            "grid_sample_gradfix.enabled = True; x = 1",
            "behind a semicolon",
        ),
        (of_loop, "loop", "import json", "import json import", "is no code of Python 3"),
        (
            places.of_script,
            "train",
            "@click.command()",
            "",
            "looked for one command of click that calls launch_training",
        ),
        (places.of_script, "train", "import json", "import argparse", None),
        (places.of_script, "train", "    launch_training(c=c", "    start(c=c", "found 0 such calls in main()"),
        (places.of_script, "train", "desc=desc, dry", "desc='run', dry", "found 0 such calls in main()"),
        (
            places.of_script,
            "train",
            "    launch_training(c=c",
            "    if c: launch_training(c=c",
            "has more than one statement",
        ),
        (
            places.of_script,
            "train",
            "    launch_training(c=c",
            "    pass\n\ndef unused(c, desc, opts):\n    launch_training(c=c",
            "found 0 such",
        ),
        (places.of_script, "train", "@click.option", "@option", "has no click.option above main()"),
        (
            places.of_script,
            "loop",
            "    D_kwargs={},",
            "",
            "takes no D_kwargs and loss_kwargs; it takes G_kwargs, ada_kimg, ",
        ),
    ],
)
def test_a_place_that_is_missing_is_named(tmp_path, find, file, old, new, said):
    write(tmp_path)
    path = tmp_path / {"package": places.DNNLIB, "loop": places.LOOP, "train": places.TRAIN}[file]
    if new is None:
        path.unlink()
    else:
        content = path.read_text()
        assert old in content
        path.write_text(
            content.replace(old, new).replace("    augment_p=0,\n", "" if "D_kwargs" in old else "    augment_p=0,\n")
        )
    if said is None:
        assert find(tmp_path).insertions
        return
    with pytest.raises(NoPlaceError, match=re.escape(said)):
        find(tmp_path)


def test_what_parses_arguments_instead_is_named(tmp_path):
    write(tmp_path, train="import argparse\nimport hydra.utils\nfrom training import training_loop\n")
    with pytest.raises(NoPlaceError, match=r"or setup_training_loop_kwargs\(\), found argparse and hydra$"):
        places.of_script(tmp_path)


# The adapter


@pytest.mark.parametrize(
    ("adapter", "file", "old", "new"),
    [
        ("stylegan", "loop", "", ""),
        ("insgen", "loop", "    augment_p=0,", "    augment_p=0,\n    DHead_kwargs=None,"),
        (
            "projected_gan",
            "train",
            'D_kwargs = dnnlib.EasyDict(class_name="torch.nn.Identity',
            'D_kwargs = dnnlib.EasyDict(class_name="pg_modules.discriminator.ProjectedDiscriminator',
        ),
        ("diffusion_gan", "loop", "    pipe = ", "    if 0: pipe.update_T()\n    pipe = "),
        ("diffusion_gan", "loop", "    pipe = ", "    DHead_kwargs = diffusion.update_T\n    pipe = "),
        ("wrapped", "loop", "    ada_target=None,\n", ""),
        ("wrapped", "loop", "    ada_target=None,\n", "    apa_target=None,\n"),
    ],
)
def test_the_adapter_is_chosen_by_what_the_code_does(tmp_path, adapter, file, old, new):
    content = {"loop": LOOP, "train": LAUNCHED}[file]
    assert old in content
    write(tmp_path, **{file: content.replace(old, new, 1)})
    assert places.adapter_of(tmp_path) == adapter
    assert f"import {adapter} as regularizers" in inserted(tmp_path, places.of_script)[0]
    assert adapter in ADAPTERS


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("from training import training_loop", "from training import training_loop, other", places.LOOP),
        ("from training import training_loop", "from training import other as training_loop", "training/other.py"),
        ("from training import training_loop", "import training.training_loop as training_loop", places.LOOP),
        ("training_loop.training_loop(", "training_loop(", "training.py"),
    ],
)
def test_the_loop_is_the_one_that_the_script_calls(tmp_path, old, new, path):
    write(tmp_path, train=LAUNCHED.replace(old, new))
    (tmp_path / path).write_text(LOOP)
    assert places.of_loops(tmp_path)[0].path == path


def test_a_file_of_insgen_alone_makes_no_insgen(tmp_path):
    (write(tmp_path) / "training/contrastive_head.py").write_text("DHead_kwargs = 1\n")
    assert places.adapter_of(tmp_path) == "stylegan"


# What is compiled


def lines_of(code: CodeType) -> dict[str, list[int | None]]:
    """The lines of all functions, by their names."""
    inner = (lines_of(const) for const in code.co_consts if isinstance(const, CodeType))
    return {code.co_name: sorted({line for *_, line in code.co_lines() if line})} | {
        k: v for d in inner for k, v in d.items()
    }


@pytest.mark.parametrize("find", FIND)
def test_all_other_lines_keep_their_numbers(tmp_path, find):
    change = find(write(tmp_path))
    before, after = (lines_of(code) for code in (compile(change.original, "", "exec"), change.compile("x.py")))
    ours = {insertion.after + 1 for insertion in change.insertions}
    for name, lines in after.items():
        assert set(before[name]) <= set(lines) <= set(before[name]) | ours
    assert change.compile("x.py").co_filename == "x.py"
    docstring = ast.get_docstring(ast.parse(change.original))
    assert docstring is None or change.compile("x.py").co_consts[0] == docstring


# Bytes


SOURCES = {places.DNNLIB: PACKAGE, places.LOOP: LOOP, places.TRAIN: LAUNCHED}


@st.composite
def formatted(draw) -> tuple[str, bytes]:
    """One of the files, with a byte-order mark, ends of lines, comments, tabs and page breaks as they are found."""
    path = draw(st.sampled_from(list(SOURCES)))
    text = SOURCES[path]
    if draw(st.booleans()):
        text = re.sub("^( {4})+", lambda spaces: "\t" * (len(spaces[0]) // 4), text, flags=re.MULTILINE)
    comment = st.sampled_from(["", "  # grüße", "  # gan_regularize", "\f", "  # gan_regularizers are good"])
    ends = [draw(st.sampled_from(["\n", "\r\n", "\r"]))] if draw(st.booleans()) else ["\n", "\r\n", "\r"]
    lines = [
        line + (draw(comment) if line.endswith((")", ":")) else "") + draw(st.sampled_from(ends))
        for line in text.splitlines()
    ]
    content = "".join(lines).encode()
    if draw(st.booleans()):
        content = content.rstrip(b"\r\n")
    return path, draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + content


@given(example=formatted())
def test_a_round_trip_is_exact(tmp_path_factory, example):
    path, content = example
    folder = write(tmp_path_factory.mktemp("checkout"))
    (folder / path).write_bytes(content)
    change = FIND[list(SOURCES).index(path)](folder)
    assert change.original == content
    with_lines = change.inserted()
    compile(with_lines, path, "exec")
    assert all(insertion.line.encode() in with_lines for insertion in change.insertions)
    assert with_lines.startswith(b"\xef\xbb\xbf") == content.startswith(b"\xef\xbb\xbf")
    assert places.remove(with_lines) == content
    (folder / path).write_bytes(with_lines)
    assert FIND[list(SOURCES).index(path)](folder) == change


def removed(text: str) -> str:
    return places.remove(text.encode()).decode()


@pytest.mark.parametrize(
    "line",
    [
        "from gan_regularizers.adapters import modern_torch\n",
        "from gan_regularizers.adapters import insgen as regularizers # mine\n",
        "device = dnnlib.modern_torch.prepare(\n    device\n)  # gan_regularizers\n",
        "device = dnnlib.modern_torch.prepare(device, conv2d_gradfix, grid_sample_gradfix)\n",
        "run_desc = regularizers.configure(args, run_desc)\n",
        "run_desc = regularizers.configure(\n    args,\n    run_desc,\n)\n",
        "anything(1)  # gan_regularizers\n",
        "anything(1)    # gan_regularizers\n",
    ],
)
def test_a_line_is_known_without_its_mark_and_however_formatted(line):
    ours = "from gan_regularizers.adapters import stylegan as regularizers\n"  # by which that name is ours
    assert removed(f"{ours}import a\n{line}b = 1\n") == "import a\nb = 1\n"
    indented = "".join(f"    {part}\n" for part in line.splitlines())
    assert removed(f"{ours}def f():\n{indented}    b = 1\n") == "def f():\n    b = 1\n"


def test_decorators_of_ours():
    for line in ("@regularizers.options\n", "@regularizers.options # mine\n", "@anything()  # gan_regularizers\n"):
        ours = "from gan_regularizers.adapters import stylegan as regularizers\n"
        assert removed(f"{ours}@a\n{line}@b()\ndef f():\n    pass\n") == "@a\n@b()\ndef f():\n    pass\n"


def test_text_that_looks_like_ours_stays():
    text = '"""\nfrom gan_regularizers.adapters import modern_torch  # gan_regularizers\n"""\n# @regularizers.options\n'
    text += "options = regularizers.options\nimport gan_regularizers\nx = '# gan_regularizers'\n"
    text += "from gan_regularizers.adapters import spider\nmodule = property(lambda self: self)\n"
    text += "def f(tensor):\n    if not torch.distributed.is_initialized(): return tensor\n    return 0\n"
    assert removed(text) == text


def test_what_is_around_our_lines_stays():
    inner = "        run_desc = regularizers.configure(args, run_desc)  # gan_regularizers\n"
    for outer in ("if a:", "with a:", "for a in b:", "while a:"):
        text = f"def f():\n    {outer}\n        b = 1\n{{}}"
        assert removed(text.format(inner)) == text.format("")


def test_a_file_that_is_no_python_any_more_loses_the_marked_lines():
    assert (
        removed("if x\n    f()  # gan_regularizers\n    g()  # gan_regularizers too\n")
        == "if x\n    g()  # gan_regularizers too\n"
    )


def test_the_lines_of_version_0_1_0_in_insgen():
    """They had no marks."""
    head = "class CLHead:\n{}    x = 1\n\ndef concat_all_gather(tensor):\n{}    return 1\n"
    ours = (
        "    module = property(lambda self: self) # As DistributedDataParallel has it.\n",
        "    if not torch.distributed.is_initialized(): return tensor\n",
    )
    assert removed(head.format(*ours)) == head.format("", "")
    copy = "{}def copy_params_and_buffers():\n    pass\n\n\n@torch.no_grad()\ndef f():\n    pass\n"
    ours = "@torch.no_grad() # The heads of a resumed run take gradients already.\n"
    assert removed(copy.format(ours)) == copy.format("")


def test_an_insertion_at_the_end_of_the_last_line_is_none():
    change = Change("x.py", b"import a\nimport b", ())
    assert change.inserted() == change.original


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_our_lines_end_as_their_neighbours_do(tmp_path, end):
    write(tmp_path, train=LAUNCHED.replace("\n", end).encode())
    content = places.of_script(tmp_path).inserted().decode()
    assert content.replace(end, "\n").count("\n") == LAUNCHED.count("\n") + 3
    assert not re.search("[\r\n]", content.replace(end, ""))


def test_what_a_person_calls_regularizers_stays(tmp_path):
    text = "import regularizers\nl2 = regularizers.configure(0.1)\n@regularizers.options\ndef f():\n    pass\n"
    assert removed(text) == text
    write(tmp_path, train=LAUNCHED.replace("import dnnlib\n", "import dnnlib\nimport regularizers\n"))
    with pytest.raises(
        NoPlaceError, match=r"train\.py calls something of its own regularizers, as our line does; rename"
    ):
        places.of_script(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "seed = 5; desc = regularizers.configure(c, desc)  # gan_regularizers",
        "if desc: desc = regularizers.configure(c, desc)  # gan_regularizers",
        "desc = regularizers.configure(c, desc); seed = 5",
    ],
)
def test_a_line_of_ours_with_something_else_in_it_is_not_torn_off(line):
    text = f"from gan_regularizers.adapters import stylegan as regularizers\ndesc = 1\n{line}\n"
    with pytest.raises(
        NoPlaceError, match=r"train\.py, line 3, has more than our statement; give that a line of its own"
    ):
        places.remove(text.encode(), "train.py")


def test_an_option_of_its_own_with_our_name(tmp_path):
    write(tmp_path, train=LAUNCHED.replace('"--seed"', '"--reg", "seed"'))
    with pytest.raises(NoPlaceError, match=r"train\.py has an option --reg of its own; rename it"):
        places.of_script(tmp_path)


def test_training_that_is_launched_in_two_places(tmp_path):
    launch = "    launch_training(c=c, desc=desc, dry_run=opts.dry_run)"
    write(tmp_path, train=LAUNCHED.replace(launch, f"    if opts.gpus:\n    {launch}\n    else:\n    {launch}"))
    with pytest.raises(NoPlaceError, match=r"found 2 such calls in main\(\)"):
        places.of_script(tmp_path)


def test_training_in_the_try_that_sets_it_up(tmp_path):
    """The configuration comes before it."""
    write(
        tmp_path, train=SET_UP.replace("**config_kwargs)\n    except", "**config_kwargs)\n        go(args)\n    except")
    )
    assert inserted(tmp_path, places.of_script)[-1].startswith("run_desc, args = setup_training_loop_kwargs(")


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ("from training import training_loop", "import training.other as training_loop", ["training/other.py"]),
        (
            "    training_loop.training_loop(",
            "    import training.other\n    training.other.training_loop(",
            ["training/other.py"],
        ),
        (
            "training_loop.training_loop(rank=rank, **c)",
            "dnnlib.util.get_obj_by_name('training.other.training_loop')(rank=rank, **c)",
            ["training/other.py"],
        ),
        (
            "training_loop.training_loop(rank=rank, **c)",
            "dnnlib.util.get_obj_by_name('training.{}.training_loop'.format(c.loop))(rank=rank, **c)",
            ["training/other.py", "training/training_loop.py"],
        ),
        (
            "training_loop.training_loop(rank=rank, **c)",
            "(training_loop.training_loop if rank else fit)(rank, **c)\n    fit()\n    training_loop.training_loop()",
            ["training/other.py", "training/training_loop.py"],
        ),
        ("from training import training_loop", "from .training import other as training_loop", ["training/other.py"]),
    ],
)
def test_all_loops_that_a_script_may_call(tmp_path, old, new, paths):
    edited = LAUNCHED.replace(old, new).replace(
        "import click\n", "import click\nfrom training.other import training_loop as fit\n"
    )
    write(tmp_path, train=edited)
    (tmp_path / "training/other.py").write_text(LOOP)
    assert sorted(places.loop_paths(tmp_path)) == paths
    assert [len(change.insertions) for change in places.of_loops(tmp_path)] == [1] * len(paths)


def test_what_is_set_in_the_main_loop_or_in_another_function_is_too_late(tmp_path):
    tail = "    def inner():\n        device = 1\n    while True:\n        device = 2\n        break\n"
    write(tmp_path, loop=LOOP.replace("    pipe = ", f"{tail}    pipe = "))
    assert inserted(tmp_path, of_loop)[0].startswith("grid_sample_gradfix.enabled = True > ")


def test_dnnlib_that_another_function_imports_is_not_there(tmp_path):
    write(tmp_path, loop=LOOP.replace("import dnnlib\n", "") + "\n\ndef f():\n    import dnnlib\n")
    with pytest.raises(NoPlaceError, match="does not import dnnlib"):
        of_loop(tmp_path)
    write(tmp_path, loop=LOOP.replace("import dnnlib\n", "try:\n    import dnnlib\nexcept ImportError:\n    raise\n"))
    assert of_loop(tmp_path).insertions


def test_code_that_is_hard_to_read(tmp_path):
    """A sum of a thousand terms, imports that are all in a try, and a line that goes on."""
    write(tmp_path, loop=f"{LOOP}\nx = {' + '.join(['1'] * 1000)}\n")
    assert of_loop(tmp_path).insertions
    head, rest = LAUNCHED.split("\n\ndef subprocess_fn")[0], LAUNCHED.split("\n\ndef subprocess_fn")[1]
    lines = "".join(f"    {line}\n" for line in head.splitlines() if "import" in line)
    write(tmp_path, train=f"try:\n{lines}finally:\n    pass\n\n\ndef subprocess_fn{rest}")
    with pytest.raises(NoPlaceError, match=r"train\.py has no import above main\(\)"):
        places.of_script(tmp_path)
    write(
        tmp_path,
        train=LAUNCHED.replace("training_loop\n\n", "training_loop \\\n\n", 1),
    )
    with pytest.raises(NoPlaceError, match="does not end there; end it with a newline alone"):
        places.of_script(tmp_path)


def test_scripts_that_train(tmp_path):
    write(tmp_path)
    assert places.trains(tmp_path, "train.py")
    assert not places.trains(tmp_path, "gen_images.py")
    (tmp_path / "other.py").write_text("# training_loop()\nfrom training.training_loop import save_image_grid\n")
    assert not places.trains(tmp_path, "other.py")
    (tmp_path / "other.py").write_text("def f(:\n")
    assert not places.trains(tmp_path, "other.py")


def test_warnings_come_once_and_with_their_lines(tmp_path):
    """Python 3.12 warns of escapes that it does not know."""
    write(tmp_path, loop=LOOP + 'x = "\\d"\n')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        of_loop(tmp_path).compile("loop.py")
    found = [(warning.filename, warning.lineno) for warning in caught if "escape" in str(warning.message)]
    assert found == [("loop.py", LOOP.count("\n") + 1)]
