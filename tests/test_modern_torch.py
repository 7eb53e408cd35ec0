"""What modern_torch mends where it is broken, and that it leaves the rest alone."""

import importlib
import importlib.metadata
import importlib.util
import json
import runpy
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest
import scipy.linalg
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.function import once_differentiable
from torch.utils.data import Sampler

NAME = "gan_regularizers.adapters.modern_torch"
ABSENT = ("pkg_resources", "distutils", "distutils.util")
CHANGED = [
    (Sampler, "__init__"),
    (torch.optim.Adam, "__init__"),
    (torch.nn.parallel.DistributedDataParallel, "__init__"),
    (torch.Tensor, "cuda"),
    (torch.Tensor, "pin_memory"),
    (torch.cuda, "Event"),
    (torch.cuda, "current_stream"),
    (torch.cuda, "reset_peak_memory_stats"),
    (scipy.linalg, "sqrtm"),
    (type(click.BOOL), "convert"),
]
ALIASES = {"bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str}


class Mended:
    """Imports the module anew, where nothing is broken but what a test breaks; the test's end undoes what it changed.

    What is broken by itself depends on the versions of torch, scipy, setuptools and Python.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        torch.optim.Adam([torch.ones(1)])  # imports much, setuptools too, which would not have the stand-ins below
        for target, name in CHANGED:
            monkeypatch.setattr(target, name, getattr(target, name))
        for name in (NAME, *ABSENT):
            module = importlib.util.module_from_spec(ModuleSpec(name, None, is_package=True))
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(Sampler, "__init__", lambda self, data_source=None: None)  # noqa: ARG005
        monkeypatch.setattr(torch.optim.Adam, "__init__", self.adam)
        monkeypatch.setattr(torch.distributed.utils, "_sync_module_states", lambda module: None)  # noqa: ARG005
        monkeypatch.setattr(importlib.metadata, "version", {"scipy": "1.17.1"}.__getitem__)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        for name, kind in ALIASES.items():
            monkeypatch.setitem(vars(np), name, vars(np).get(name, kind))
        monkeypatch.setattr(type(click.BOOL), "convert", lambda self, value, *_: bool(value))  # noqa: ARG005

    @staticmethod
    def adam(self: torch.optim.Adam, params: list, lr: float = 1e-3, betas: tuple = (0.9, 0.999)) -> None:
        """Adam before it refused whole numbers."""
        torch.optim.Optimizer.__init__(self, params, {"lr": lr, "betas": betas})

    def without(self, *names: str) -> None:
        """Make modules impossible to find, as on a machine that does not have them."""
        finders = list(sys.meta_path)

        class Others:
            @staticmethod
            def find_spec(name, *args):
                specs = (finder.find_spec(name, *args) for finder in finders if hasattr(finder, "find_spec"))
                return None if name in names else next((spec for spec in specs if spec), None)

        for name in ABSENT:
            if name.partition(".")[0] in names:
                del sys.modules[name]
        self.patch.setattr(sys, "meta_path", [Others])

    def __call__(self):
        del sys.modules[NAME]
        return importlib.import_module(NAME)


@pytest.fixture
def mended(monkeypatch) -> Mended:
    return Mended(monkeypatch)


def test_nothing_is_changed_where_nothing_is_broken(mended, capsys):
    before = [getattr(target, name) for target, name in CHANGED]
    modules = [sys.modules[name] for name in ABSENT]
    assert mended().changes == []
    del sys.modules[NAME]
    runpy.run_module(NAME, run_name="__main__")
    assert capsys.readouterr().out == f"Nothing needed mending with torch {torch.__version__}.\n"
    assert [getattr(target, name) for target, name in CHANGED] == before
    assert [sys.modules[name] for name in ABSENT] == modules


# Each thing that the module may mend, in the order of its lines.
PROBES = """
import importlib, importlib.util, json, sys, torch

def parse():
    from pkg_resources import parse_version as p
    assert p("2.11") > p("2.6")

def strtobool():
    from distutils.util import strtobool
    assert strtobool("yes") == 1

def sqrtm():
    import scipy.linalg
    root, error = scipy.linalg.sqrtm(4 * torch.eye(2).numpy(), disp=False)
    assert root[0, 0] == 2

def aliases():
    import numpy
    assert numpy.zeros(2, dtype=numpy.int).astype(numpy.float).astype(numpy.object)[0] == 0

def switch():
    import click
    assert click.BOOL.convert(1, None, None) is True

def cuda():
    if torch.cuda.is_available():
        return
    assert torch.ones(1).pin_memory().cuda(torch.device("cpu")) == 1
    torch.cuda.Event(enable_timing=True).record(torch.cuda.current_stream())
    torch.cuda.reset_peak_memory_stats(torch.device("cpu"))

def works(probe):
    try:
        probe()
    except (AssertionError, AttributeError, ImportError, RuntimeError, TypeError, ValueError):
        return False
    return True

probes = [
    lambda: torch.utils.data.Sampler([1]),
    lambda: torch.optim.Adam([torch.ones(1, requires_grad=True)], betas=[0, 0.99]),
    lambda: importlib.util.find_spec("pkg_resources") or parse(),
    lambda: importlib.util.find_spec("distutils") or strtobool(),
    sqrtm,
    aliases,
    switch,
    cuda,
]
broken = sum(not works(probe) for probe in probes)
broken += torch.distributed.is_available()  # test_distributed.py has the ranks that this takes to see
import gan_regularizers.adapters.modern_torch as m
for probe in probes:
    probe()
classes = (torch.utils.data.Sampler, torch.nn.parallel.DistributedDataParallel, torch.optim.Adam)
changed = [*((kind, "__init__") for kind in classes), (torch.Tensor, "cuda"), (torch.cuda, "Event")]
made = [getattr(*item) for item in changed]
changes = list(m.changes)
importlib.reload(m)
again = [getattr(*item) for item in changed]
assert m.changes == changes and all(a is b for a, b in zip(made, again))
print(json.dumps([broken, changes]))
"""


def test_on_this_machine_all_that_is_broken_is_mended_once():
    def run(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-W", "ignore", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    broken, changes = json.loads(run("-c", PROBES))
    assert len(changes) == broken
    assert run("-m", NAME).splitlines() == (changes or [f"Nothing needed mending with torch {torch.__version__}."])


def test_a_sampler_takes_its_data_set(mended, monkeypatch):
    monkeypatch.setattr(Sampler, "__init__", object.__init__)
    assert mended().changes == ["torch.utils.data.Sampler() takes the data set again, and ignores it"]

    class Infinite(Sampler):
        def __init__(self, dataset):
            super().__init__(dataset)
            self.dataset = dataset

    assert Infinite([1, 2]).dataset == [1, 2]
    Sampler()


def test_adam_takes_whole_numbers(mended, monkeypatch):
    def strict(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        if not all(isinstance(beta, float) for beta in betas):
            raise ValueError("betas must be either both floats or both Tensors")
        torch.optim.Optimizer.__init__(self, params, {"lr": lr, "betas": betas, "eps": eps})

    monkeypatch.setattr(torch.optim.Adam, "__init__", strict)
    assert mended().changes == ["torch.optim.Adam() takes whole numbers for its betas again"]
    (group,) = torch.optim.Adam([torch.ones(1)], lr=0.1, betas=[0, 0.99], eps=1e-6).param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (0.1, (0.0, 0.99), 1e-6)
    betas = (torch.tensor(0.5), torch.tensor(0.9))
    with pytest.raises(ValueError, match="betas must be"):
        torch.optim.Adam([torch.ones(1)], betas=betas)


def test_versions_are_parsed_without_pkg_resources(mended):
    mended.without("pkg_resources")
    assert mended().changes == ["pkg_resources, which is not installed, has parse_version()"]
    from pkg_resources import packaging, parse_version

    assert packaging.version.parse("1.7.1") > packaging.version.parse("1.7.0")
    assert parse_version("2.11.0+cu130") > parse_version("2.6") > parse_version("1.7.0a0")
    assert importlib.util.find_spec("pkg_resources")  # other libraries ask


def test_strtobool_without_distutils(mended):
    mended.without("distutils")
    assert mended().changes == ["distutils, which is not installed, has util.strtobool()"]
    import distutils.util

    assert [distutils.util.strtobool(text) for text in ("Yes", "1", "on", "FALSE", "n", "0")] == [1, 1, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="invalid truth value 'maybe'"):
        distutils.util.strtobool("maybe")
    assert importlib.util.find_spec("distutils")


def test_sqrtm_takes_disp(mended, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", {"scipy": "1.18.0"}.__getitem__)
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda A: A**0.5)
    assert mended().changes == ["scipy.linalg.sqrtm() takes disp again; the error estimate beside its root is NaN"]
    root, error = scipy.linalg.sqrtm(4.0, disp=False)
    assert root == scipy.linalg.sqrtm(4.0) == 2.0
    assert error != error


def test_scipy_may_be_missing(mended, monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert mended().changes == []


def test_numpy_names_what_is_pythons(mended, monkeypatch):
    for name in ("int", "object"):
        monkeypatch.delitem(vars(np), name)
    kept = vars(np)["bool"]
    assert mended().changes == ["numpy.int, numpy.object are those of Python again"]
    assert [vars(np)[name] for name in ("int", "object", "bool")] == [int, object, kept]


def test_switches_take_numbers(mended, monkeypatch):
    def strict(self, value, param, ctx):  # noqa: ARG001
        if isinstance(value, bool):
            return value
        return {"1": True, "no": False}[value.strip()]

    monkeypatch.setattr(type(click.BOOL), "convert", strict)
    assert mended().changes == ["switches of click take 0 and 1 again, as numbers"]
    convert = click.BOOL.convert
    assert [convert(value, None, None) for value in (1, 0, True, "1", "no")] == [True, False, True, True, False]


def test_a_training_loop_runs_without_cuda(mended, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    moved = []
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *args: moved.append(args))  # noqa: ARG005
    (change,) = mended().changes
    assert change.startswith("without a CUDA device")

    x = torch.ones(2)
    assert x.pin_memory() is x
    assert x.cuda(torch.device("cpu")) is x
    x.cuda()
    x.cuda(torch.device("cuda", 1))
    assert moved == [(None,), (torch.device("cuda", 1),)]  # torch's own, which says what is wrong
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for event in (start, end):
        event.record(torch.cuda.current_stream(torch.device("cpu")))
        event.synchronize()
    assert start.cuda_event
    assert 0 <= start.elapsed_time(end) < 1000
    torch.cuda.reset_peak_memory_stats(torch.device("cpu"))


@pytest.fixture
def repository(monkeypatch):
    """Adds modules as of a repository, with the packages that they are in."""

    def add(name: str, **content: Any) -> ModuleType:
        for end in [i for i, letter in enumerate(name) if letter == "."]:
            if name[:end] not in sys.modules:
                package = ModuleType(name[:end])
                package.__path__ = []
                monkeypatch.setitem(sys.modules, name[:end], package)
        module = ModuleType(name)
        vars(module).update(content, __spec__=ModuleSpec(name, None))
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return add


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image):  # noqa: ARG004
        return image.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # noqa: ARG004
        return grad.clone()


@pytest.mark.parametrize("twice", [True, False])
def test_prepare_switches_upstreams_operators_off(mended, repository, monkeypatch, twice):
    module = mended()
    native = (
        (lambda image, grid, **_: module.grid_sample(image, grid))
        if twice
        else lambda image, *_, **__: _Once.apply(image)
    )
    monkeypatch.setattr(torch.nn.functional, "grid_sample", native)
    conv, grid = (
        repository(f"torch_utils.ops.{name}_gradfix", enabled=True, grid_sample="upstream's")
        for name in ("conv2d", "grid_sample")
    )
    assert module.prepare(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert (conv.enabled, grid.enabled) == (False, False)
    assert grid.grid_sample == ("upstream's" if twice else module.grid_sample)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="no CUDA device; training runs on the CPU"):
        assert module.prepare(torch.device("cuda", 0)) == torch.device("cpu")
    assert module.prepare(torch.device("cpu"), conv, grid) == torch.device("cpu")  # as trees of version 0.1.0 call it


def test_prepare_mends_what_a_repository_has_of_its_own(mended, repository):
    """ProjectedGAN's features and InsGen's heads; nothing of a repository that has none of these."""
    module = mended()
    assert module.prepare(torch.device("cpu")) == torch.device("cpu")
    timm, efficientnet_lite = object(), ModuleType("gan_regularizers.adapters.efficientnet_lite")
    repository(efficientnet_lite.__name__)
    features = repository("pg_modules.projector", timm=timm)
    others = repository("feature_networks.pretrained_builder")
    weight = torch.ones(1, requires_grad=True)

    def copy_params_and_buffers(source: torch.Tensor, target: torch.Tensor) -> None:
        target.copy_(source)

    heads = repository("training.contrastive_head", CLHead=type("CLHead", (), {}), concat_all_gather=None)
    misc = repository("torch_utils.misc", copy_params_and_buffers=copy_params_and_buffers)
    module.prepare(torch.device("cpu"))
    assert features.timm is sys.modules[efficientnet_lite.__name__]
    assert not hasattr(others, "timm")
    head = heads.CLHead()
    assert head.module is head
    assert heads.concat_all_gather(weight) is weight
    misc.copy_params_and_buffers(torch.zeros(1), weight)
    assert float(weight.detach()) == 0


def test_prepare_leaves_the_heads_of_several_processes_alone(mended, repository, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    heads = repository("training.contrastive_head", CLHead=type("CLHead", (), {}), concat_all_gather=len)
    repository("torch_utils.misc", copy_params_and_buffers=len)
    mended().prepare(torch.device("cpu"))
    assert not hasattr(heads.CLHead, "module")
    assert heads.concat_all_gather is len


def test_an_error_of_a_repositorys_own_module_is_shown(mended, tmp_path, monkeypatch):
    (tmp_path / "pg_modules").mkdir()
    (tmp_path / "pg_modules/projector.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        mended().prepare(torch.device("cpu"))
    sys.modules.pop("pg_modules", None)


def _image_and_grid() -> tuple[torch.Tensor, torch.Tensor]:
    """The grid leaves the image on all sides."""
    image = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    return image, torch.empty(2, 3, 4, 2, dtype=torch.float64).uniform_(-1.3, 1.3)


def test_grid_sample_is_differentiable_twice(mended):
    grid_sample = mended().grid_sample
    image, grid = _image_and_grid()
    torch.testing.assert_close(
        grid_sample(image, grid), torch.nn.functional.grid_sample(image, grid, align_corners=False), rtol=0, atol=0
    )
    assert gradcheck(lambda x: grid_sample(x, grid), image)
    assert gradgradcheck(lambda x: grid_sample(x, grid), image)  # to the image and to the incoming gradient
    assert gradcheck(lambda g: grid_sample(image.detach(), g), grid.requires_grad_())


def test_grid_sample_refuses_a_second_derivative_for_its_grid(mended):
    grid_sample = mended().grid_sample
    image, grid = _image_and_grid()
    y = grid_sample(image, grid.requires_grad_())
    to_image, to_grid = torch.autograd.grad(y.square().sum(), (image, grid), create_graph=True)
    with pytest.raises(RuntimeError, match="no mixed derivative of grid_sample for its grid"):
        to_image.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative of grid_sample for its grid"):
        to_grid.sum().backward()


def test_grid_sample_has_torchs_double_backward(mended):
    module = mended()

    def native(x, grid):
        return torch.nn.functional.grid_sample(x, grid, align_corners=False)

    if not module._differentiable_twice(torch.nn.functional.grid_sample):
        pytest.skip("this torch has none")
    image, grid = _image_and_grid()

    def penalty(function):
        """R1's gradient for the image and for weights before it."""
        weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(function(image * weight, grid).pow(3).sum(), image, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (image, weight))

    for ours, torchs in zip(penalty(module.grid_sample), penalty(native), strict=True):
        torch.testing.assert_close(ours, torchs)
