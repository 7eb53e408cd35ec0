"""The adapters without upstream: small classes of upstream's shapes, and a command that stands for its train.py."""

import copy
import importlib
import inspect
import json
import pickle
import pickletools
import re
import shutil
import sys
import zipfile
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import click
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from gan_regularizers import AdaptiveT, DiffAugment, DiffusionNoise, timestep_embedding, wrap
from gan_regularizers.adapters import (
    diffusion_gan,
    insgen,
    inside_d,
    projected_gan,
    snapshot_parts,
    spider,
    stylegan,
    wrapped,
)
from gan_regularizers.adapters.snapshot_parts import FrozenGenerator, Pipe, full_name
from gan_regularizers.adapters.stylegan import told_discriminator
from gan_regularizers.regularizer import InputRegularizer
from gan_regularizers.spider import ImageLatents

HOSTS = {
    "stylegan": stylegan,
    "insgen": insgen,
    "projected_gan": projected_gan,
    "wrapped": wrapped,
    "diffusion_gan": diffusion_gan,
}
STYLEGANS = ("stylegan", "insgen")
INSIDE = ("projected_gan", "wrapped")  # the noise is a part of D
FED = ("stylegan", "projected_gan")
NOISE = {"t_max": 500, "t_min": 10, "seed": 7}


# Arguments of the training loops, as far as the adapters look.
_OF_ALL = "D_kwargs loss_kwargs"
_ADA = f"{_OF_ALL} augment_kwargs augment_p ada_target ada_kimg"
ARGUMENTS = {
    "stylegan": _ADA,
    "insgen": _ADA,
    "projected_gan": _OF_ALL,
    "wrapped": f"{_OF_ALL} augment_kwargs",
    "diffusion_gan": f"{_OF_ALL} diffusion_kwargs diffusion_p ada_target ada_kimg",
}


class EasyDict(dict):
    """dnnlib's."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class Loss:
    """Upstream's loss, which gives its pipe images and reports Loss/signs/real."""

    def run_D(self, img, c):  # noqa: N802
        return self.D(self.augment_pipe(img), c)


class SilentLoss:
    """A loss without statistics."""


class FeatureLoss(Loss):
    """GGDR's, whose pipe takes G's features too."""

    def run_aug(self, img, features):
        return self.augment_pipe(img, features)


class Augment(nn.Module):
    """Upstream's augmentation: what it does shows in the images."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.register_buffer("p", torch.ones(()))
        self.scale = scale

    def forward(self, images):
        return self.scale * images


@pytest.fixture(autouse=True)
def upstream(monkeypatch) -> SimpleNamespace:
    """Upstream's modules; the statistics that were reported, and what the snapshots hold, by name."""
    seen = SimpleNamespace(reports=[], snapshots={})

    def find(name):
        module, _, item = name.rpartition(".")
        return getattr(importlib.import_module(module), item)

    def add(name, **content):
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    util = add(
        "dnnlib.util",
        get_obj_by_name=find,
        construct_class_by_name=lambda class_name, **kwargs: find(class_name)(**kwargs),
        open_url=nullcontext,
    )
    add("dnnlib", util=util)
    seen.legacy = add("legacy", load_network_pkl=seen.snapshots.__getitem__)
    statistics = add(
        "torch_utils.training_stats",
        report=lambda name, value: value,  # noqa: ARG005
        report0=lambda *report: seen.reports.append(report),
    )
    add("torch_utils", training_stats=statistics)
    add("training")
    add("training.loss", Loss=Loss, FeatureLoss=FeatureLoss, SilentLoss=SilentLoss)
    add("training.training_loop")
    return seen


def training_loop_of(arguments: str) -> None:
    """Let upstream's training_loop() be one with arguments of these names."""

    def training_loop(**_):
        pass

    names = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in arguments.split()]
    training_loop.__signature__ = inspect.Signature(names)
    sys.modules["training.training_loop"].training_loop = training_loop


def invoke(host: str, line: str, arguments: str | None = None, **changes):
    """What upstream's train.py makes of the options: the arguments of its training loop, and click's outcome."""
    training_loop_of(arguments or ARGUMENTS[host])
    args = EasyDict(
        random_seed=3,
        batch_size=32,
        batch_gpu=8,
        num_gpus=2,
        training_set_kwargs=EasyDict(resolution=64, use_labels=True),
        G_kwargs=EasyDict(class_name="training.networks.Generator", z_dim=512),
        D_kwargs=EasyDict(class_name="training.networks.Discriminator", channel_max=512),
        DHead_kwargs=EasyDict(inplanes=512),
        loss_kwargs=EasyDict(class_name="training.loss.Loss", r1_gamma=1.0),
        augment_kwargs=EasyDict(class_name="training.augment.AugmentPipe", xflip=1),
        ada_target=0.6,
    )
    args.update(changes)
    if "noaug" in line:
        del args["augment_kwargs"]

    @click.command()
    @click.option("--aug", type=click.Choice(["noaug", "ada", "fixed"]), default="ada")
    @click.option("--p", type=float)
    @click.option("--target", type=float)
    @click.option("--augpipe")
    @click.option("--DiffAugment")
    @click.option("--with-dataaug", type=bool)
    @click.option("--t_min", type=int, default=10)
    @click.option("--beta_start", type=float, default=1e-4)
    @HOSTS[host].options
    def train(**_):
        return HOSTS[host].configure(args, "00000-data")

    return args, CliRunner().invoke(train, line.split(), standalone_mode=False)


def configured(host: str, line: str, arguments: str | None = None, **changes) -> EasyDict:
    args, outcome = invoke(host, line, arguments, **changes)
    if outcome.exception:
        raise outcome.exception
    args.desc, args.output = outcome.return_value, outcome.output
    json.dumps(args)
    return args


def regularizers_of(args: EasyDict) -> EasyDict:
    """The settings, which are the pipe's or D's."""
    pipe = args.get("diffusion_kwargs") or args.get("augment_kwargs")
    return EasyDict(args.D_kwargs if "diffaug" in args.D_kwargs else pipe)


# The train.py.


@pytest.mark.parametrize("host", HOSTS)
def test_without_reg_nothing_changes(host):
    assert invoke(host, "--reg=none --aug=ada")[0] == invoke(host, "--help")[0]
    assert configured(host, "").desc == "00000-data"


@pytest.mark.parametrize(
    ("host", "line", "expected"),
    [
        ("stylegan", "", (500, 10, 0.05, 2e-2, "uniform", False)),
        ("stylegan", "--reg-dist=priority", (1000, 10, 0.05, 2e-2, "priority", False)),
        ("stylegan", "--reg-parity=paper", (500, 5, 0.05, 2e-2, "uniform", False)),
        ("insgen", "", (500, 5, 0.05, 2e-2, "uniform", False)),
        ("insgen", "--reg-dist=priority", (500, 5, 0.05, 2e-2, "priority", False)),
        ("projected_gan", "", (500, 5, 0.5, 1e-2, "priority", True)),
        ("projected_gan", "--reg-dist=uniform", (500, 5, 0.5, 1e-2, "uniform", True)),
        ("projected_gan", "--reg-where=last", (500, 5, 0.5, 1e-2, "priority", True)),
        ("projected_gan", "--reg-where=pixels", (500, 10, 0.05, 2e-2, "uniform", False)),
        ("projected_gan", "--reg-t-max=3", (3, 3, 0.5, 1e-2, "priority", True)),
    ],
)
def test_defaults_of_the_noise(host, line, expected):
    noise = regularizers_of(configured(host, f"--reg=diffusion {line}")).noise
    names = ("t_max", "t_min", "noise_std", "beta_end", "distribution", "per_channel")
    assert tuple(noise[name] for name in names) == expected
    assert (noise["seed"], noise["schedule"]) == (3, "linear")


@pytest.mark.parametrize("host", HOSTS)
def test_defaults_of_diffaug(host):
    alone, beside = (regularizers_of(configured(host, f"--reg={mode}")) for mode in ("diffaug", "diffaug+diffusion"))
    assert alone.diffaug == {"policy": "color,translation,cutout", "cutout": 0.2 if host == "projected_gan" else 0.5}
    assert alone.noise is None
    assert beside.diffaug == {"policy": "color,translation,cutout", "cutout": 0.2}
    assert beside.noise is not None
    assert regularizers_of(configured(host, "--reg=diffusion")).diffaug is None


@pytest.mark.parametrize("host", HOSTS)
def test_every_option_arrives(host):
    line = (
        "--reg=diffaug+diffusion --reg-policy=color,cutout --reg-cutout=0.3 --reg-noise-std=0.25 --reg-t-max=321 "
        "--reg-t-min=12 --reg-dist=uniform --reg-schedule=cosine --reg-target=0.4 --reg-kimg=50 --reg-parity=paper "
    )
    last = {"projected_gan": "where=last", "wrapped": "condition=none"}.get(host, "condition=t-raw")
    args = configured(host, f"{line} --reg-{last}")
    found = regularizers_of(args)
    assert found.diffaug == {"policy": "color,cutout", "cutout": 0.3}
    expected = {
        "noise_std": 0.25,
        "t_max": 321,
        "t_min": 12,
        "distribution": "uniform",
        "schedule": "cosine",
        "parity": "paper",
    }
    assert expected.items() <= found.noise.items()
    if host in INSIDE:
        # 32 images in two rounds of 8 on each of two GPUs
        assert found.controller == {"target": 0.4, "kimg": 50.0, "interval": 8}
        assert found["where" if host == "projected_gan" else "told"] == last.split("=")[1]
    else:
        p = args.diffusion_p if host == "diffusion_gan" else args.augment_p
        assert (p, args.ada_target, args.ada_kimg) == (0.0, 0.4, 50.0)
        assert args.D_kwargs.get("told") == ("t-raw" if host in STYLEGANS else None)
    assert args.desc == (
        "00000-data-diffaug-diffusion-policycolor,cutout-cutout0.3-noise_std0.25-t_max321-t_min12-distuniform"
        f"-schedulecosine-target0.4-kimg50.0-paritypaper-{last.replace('=', '')}"
    )


@pytest.mark.parametrize("host", STYLEGANS)
def test_what_stylegan_builds(host):
    args = configured(host, "--reg=ada+diffusion --aug=ada --augpipe=bg")
    assert args.augment_kwargs["ada"] == {"class_name": "training.augment.AugmentPipe", "xflip": 1}
    assert args.augment_kwargs["class_name"] == "gan_regularizers.adapters.snapshot_parts.Pipe"
    assert args.D_kwargs == {
        "class_name": "gan_regularizers.adapters.stylegan.told_discriminator",
        "base": "training.networks.Discriminator",
        "channel_max": 512,
        "told": "t",
    }
    assert args.desc == "00000-data-ada-diffusion"

    constant = configured(host, "--reg=diffaug --aug=noaug" if host == "stylegan" else "--reg=diffaug")
    assert constant.augment_p == 1.0
    assert "ada_target" not in constant
    assert "told" not in constant.D_kwargs
    assert "told" not in configured(host, "--reg=diffusion --reg-condition=none").D_kwargs


def test_what_insgen_builds():
    loss = configured("insgen", "--reg=diffusion").loss_kwargs
    assert loss == {
        "class_name": "gan_regularizers.adapters.insgen.loss",
        "base": "training.loss.Loss",
        "r1_gamma": 1.0,
        "views": {"class_name": "training.augment.AugmentPipe", "xflip": 1},
    }
    for changes in ({"line": "--reg=diffaug"}, {"line": "--reg=diffusion", "DHead_kwargs": None}):
        assert configured("insgen", **changes).loss_kwargs.class_name == "training.loss.Loss"


def test_what_projected_gan_builds():
    args = configured("projected_gan", "--reg=diffusion")
    assert args.D_kwargs["class_name"] == "gan_regularizers.adapters.projected_gan.discriminator"
    assert args.D_kwargs["base"] == "training.networks.Discriminator"
    assert args.D_kwargs["controller"] == {"target": 0.6, "kimg": 100.0, "interval": 8}
    assert args.loss_kwargs == {
        "class_name": "gan_regularizers.adapters.inside_d.loss",
        "base": "training.loss.Loss",
        "p_name": "Progress/augment",
        "r1_gamma": 1.0,
    }
    assert args.desc == "00000-data-diffusion"
    args = configured("projected_gan", "--reg=diffaug")
    assert args.desc == "00000-data-diffaug"
    assert args.loss_kwargs.class_name == "training.loss.Loss"


@pytest.mark.parametrize(
    ("host", "line", "said"),
    [
        *(
            (host, *case)
            for host in HOSTS
            for case in (
                ("--reg-t-max=100", "--reg-t-max=100 needs diffusion in --reg, which is none"),
                ("--reg=diffaug --reg-target=0.5", "--reg-target=0.5 needs diffusion in --reg, which is diffaug"),
                ("--reg=diffusion --reg-policy=color", "--reg-policy=color needs diffaug in --reg, which is diffusion"),
                ("--reg=diffaug --reg-policy=colour", "--reg-policy='colour': unknown name 'colour'"),
                ("--reg=diffaug --reg-policy=", "--reg-policy= is empty; leave diffaug out of --reg instead"),
                ("--reg=diffaug --reg-policy=color --reg-cutout=0.5", "has no effect with --reg-policy=color"),
                ("--reg=diffaug --reg-cutout=1.5", "--reg-cutout=1.5 is outside [0, 1]"),
                ("--reg=diffusion --reg-t-max=0", "--reg-t-max=0 is no chain; leave diffusion out of --reg instead"),
                ("--reg=diffusion --reg-t-min=700", "--reg-t-min=700 is outside [0, 500]"),
                ("--reg=diffusion --reg-noise-std=-1", "--reg-noise-std=-1.0 is outside [0, inf)"),
                ("--reg=diffusion --reg-target=nan", "--reg-target=nan is outside (-1, 1)"),
                ("--reg=diffusion --reg-kimg=0", "--reg-kimg=0.0 is outside (0, inf)"),
                ("--reg=both", "'both' is not one of"),
            )
        ),
        *(
            (host, *case)
            for host in STYLEGANS
            for case in (
                ("--reg=diffusion --aug=ada", "--aug=ada does not go with --reg=diffusion; use --reg=ada+diffusion"),
                ("--reg=diffaug --p=0.1", "--p=0.1 does not go with --reg=diffaug"),
                (
                    "--reg=diffusion --target=0.5",
                    "--target=0.5 does not go with --reg=diffusion; use --reg-target",
                ),
                ("--reg=diffaug --augpipe=bg", "--augpipe=bg does not go with --reg=diffaug"),
                ("--reg=ada+diffusion --aug=noaug", "--aug=noaug does not go with --reg=ada+diffusion"),
                ("--reg=diffusion --reg-where=last", "No such option"),
            )
        ),
        ("insgen", "--reg=diffusion --aug=noaug", "leaves InsGen's contrastive branches without views; leave it out"),
        *((host, "--reg=ada+diffusion", "'ada+diffusion' is not one of") for host in (*INSIDE, "diffusion_gan")),
        ("wrapped", "--reg=diffusion --reg-condition=t-raw", "--reg-condition=t-raw is not possible: this D has no"),
        ("diffusion_gan", "--reg=diffusion --reg-condition=t", "this D is made for the number t itself; use t-raw"),
        ("projected_gan", "--reg=diffusion --reg-condition=t", "--reg-condition=t is not possible: ProjectedGAN's D"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(host, line, said):
    with pytest.raises(click.UsageError) as refused:
        configured(host, line)
    assert said in refused.value.format_message()


def test_what_upstreams_options_rule_out():
    for host, line, changes, said in (
        ("insgen", "--reg=diffaug", {"ada_linear": True}, "--ada_linear moves p, which --reg=diffaug does not have"),
        (
            "projected_gan",
            "--reg=diffusion",
            {"G_kwargs": EasyDict(class_name="pg_modules.networks_fastgan.Generator")},
            "FastGAN's G begins at 128 pixels, these images have 64; use another --cfg",
        ),
    ):
        with pytest.raises(click.UsageError) as refused:
            configured(host, line, **changes)
        assert refused.value.message == said
    assert configured("insgen", "--reg=diffusion", ada_linear=True).augment_p == 0.0


@pytest.mark.parametrize("host", HOSTS)
def test_the_help_names_every_option_and_the_defaults(host):
    text = " ".join(invoke(host, "--help")[1].output.split())
    options = "policy cutout noise-std t-max t-min dist schedule target kimg parity condition".split()
    assert all(f"--reg-{name} " in text for name in options)
    if host == "stylegan":
        assert "[default: 0.5, with diffusion 0.2]" in text
        assert "[default: 500 with uniform, 1000 with priority]" in text
        assert "[default: 10; 5 in paper parity]" in text
    if host == "insgen":
        assert "Shortest chain of noise [default: 5]" in text
    assert ("--spider PATH_OR_PKL " in text) is ("--spider-geometry ROWSxCOLUMNS " in text) is (host in FED)
    if host == "projected_gan":
        assert "[default: 0.5 with feature maps, 0.05 with images]" in text
        assert "[default: priority with feature maps, uniform with images]" in text
        assert "--reg-where" in text


# The pipe of StyleGAN2-ADA and StyleGAN3.


def state_of(pipe: Pipe) -> dict:
    return {name: value.tolist() for name, value in pipe.regularizer.noise.state_dict().items()}


def moved(pipe: Pipe, *ps: float) -> Pipe:
    """Upstream's controller writes p, and a batch follows."""
    for p in ps:
        pipe.p.fill_(p)
        pipe(torch.zeros(1, 3, 4, 4))
    return pipe


def test_t_follows_p_and_p_is_read_when_it_was_written_only(upstream, monkeypatch):
    read = []
    follow = Pipe._follow_p
    monkeypatch.setattr(Pipe, "_follow_p", lambda self: read.append(float(self.p)) or follow(self))
    pipe = Pipe(noise=NOISE)
    noise = pipe.regularizer.noise
    x = torch.zeros(2, 3, 4, 4)
    for _ in range(3):
        pipe(x)
    assert (read, int(noise.T)) == ([0.0], 10)
    drawn = [int(noise.redraws)]
    for p in (0.5, 0.5, 1.75):  # a move may end where it began
        pipe.p.fill_(p)
        for _ in range(2):
            pipe(x)
        drawn.append(int(noise.redraws))
    assert read == [0.0, 0.5, 0.5, 1.75]
    assert drawn == [drawn[0] + i for i in range(4)]
    assert float(pipe.p) == float(noise.p) == 1.0
    assert upstream.reports == [("Progress/augment_T", T) for T in (10, 255, 255, 500)]


def test_a_resumed_pipe_goes_on_to_the_bit():
    first = moved(Pipe(noise=NOISE), 0.0, 0.3, 0.3)
    state = state_of(first)
    resumed = Pipe(noise=NOISE, state=json.loads(json.dumps(state)))
    assert state_of(moved(resumed, state["p"])) == state
    assert torch.equal(resumed.regularizer.noise.gain, first.regularizer.noise.gain)
    assert state_of(moved(resumed, 0.4)) == state_of(moved(first, 0.4)) != state


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_copies_keep_the_state_and_follow_p(copied):
    pipe = moved(Pipe(noise=NOISE, ada={"class_name": full_name(Augment)}), 0.0, 0.3)
    state = state_of(pipe)
    other = copied(pipe)
    assert state_of(moved(other, 0.3)) == state
    assert state_of(moved(other, 0.6)) != state == state_of(pipe)
    assert float(other.ada.p) == 0.25
    # The copy of one that has followed as many writes as the copy has seen.
    other = copied(moved(Pipe(noise=NOISE), 0.0))
    assert int(moved(other, 1.0).regularizer.noise.T) == 500


def test_upstreams_augmentation_comes_first_with_a_p_of_its_own():
    pipe = Pipe(noise={**NOISE, "noise_std": 0.0}, ada={"class_name": full_name(Augment), "scale": 3.0})
    for p, ada_p in ((0.0, 0.0), (0.2, 0.2), (0.7, 0.25)):
        assert float(moved(pipe, p).ada.p) == pytest.approx(ada_p)
    x = torch.ones(8, 3, 4, 4)
    y = pipe(x)
    gain = pipe.regularizer.noise.gain[y.diffusion_t]
    torch.testing.assert_close(y, 3 * gain[:, None, None, None] * x)


def test_diffaug_alone_and_p_of_1():
    pipe = Pipe(diffaug={"policy": "color", "cutout": 0.5})
    pipe.p.fill_(1.0)
    y = pipe(torch.zeros(4, 3, 8, 8))
    assert y.abs().max() > 0
    assert y.diffusion_t.tolist() == [0] * 4


def test_gradients_reach_the_images_twice():
    pipe = moved(Pipe(noise=NOISE), 1.0)
    x = torch.randn(16, 3, 4, 4, requires_grad=True)
    y = pipe(x)
    gain = pipe.regularizer.noise.gain[y.diffusion_t][:, None, None, None]
    assert 0 < gain.min() < 0.99  # a step of the chain's end, and clean ones beside it
    (grad,) = torch.autograd.grad(y.square().sum() / 2, x, create_graph=True)
    torch.testing.assert_close(grad, gain * y)
    (second,) = torch.autograd.grad(grad.sum(), x)
    torch.testing.assert_close(second, (gain**2).expand_as(x))


# What D is told.


class Discriminator(nn.Module):
    """A D that keeps the label it saw."""

    def __init__(self, c_dim: int, channels: int) -> None:
        super().__init__()
        self.c_dim = c_dim
        self.convolution = nn.Conv2d(3, channels, 1)

    def forward(self, images, c, *others, **kwargs):
        self.seen = c, others, kwargs
        return self.convolution(images).mean([1, 2, 3]) + c.sum(1)


@pytest.mark.parametrize(("told", "width"), [("t", 64), ("t-raw", 1)])
@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("copied", [lambda D: D, copy.deepcopy, lambda D: pickle.loads(pickle.dumps(D))])
def test_d_is_told_the_t_of_its_images(told, width, c_dim, copied):
    D = copied(told_discriminator(base=full_name(Discriminator), told=told, c_dim=c_dim, channels=5))
    assert (D.c_dim, D.convolution.out_channels) == (c_dim + width, 5)
    images = moved(Pipe(noise=NOISE), 1.0)(1e6 * torch.ones(8, 3, 4, 4))
    c = torch.randn(8, c_dim)

    D(images, c, "extra", update_emas=True)
    seen, *others = D.seen
    steps = moved(Pipe(noise=NOISE), 1.0).regularizer.noise.gain
    # The images are so bright that their noise is nothing beside their gain, which says what t was.
    t = (images[:, :1, 0, 0] / 1e6 - steps).abs().argmin(1)
    assert t.unique().numel() > 1
    expected = t[:, None].float() if told == "t-raw" else timestep_embedding(t, 64) / 32**0.5
    torch.testing.assert_close(seen, torch.cat([c, expected], 1))
    assert others == [("extra",), {"update_emas": True}]

    D(images.detach(), c.half())  # another tensor: nothing is known of its t, so it counts as clean
    clean = torch.zeros(8)
    expected = clean[:, None] if told == "t-raw" else timestep_embedding(clean, 64) / 32**0.5
    torch.testing.assert_close(D.seen[0], torch.cat([c.half(), expected.half()], 1), rtol=0, atol=0)  # dtype too

    if c_dim == 0:
        D(images, c=None)
        torch.testing.assert_close(D.seen[0], seen)


@pytest.mark.parametrize("told", ["t", "t-raw"])
def test_a_hook_that_comes_later_leaves_d_told(told, monkeypatch):
    """Numbers of hooks begin anew in the process that loads a snapshot, so ours must not have one."""
    D = told_discriminator(base=full_name(Discriminator), told=told, c_dim=0, channels=5)
    for handle in range(3):
        monkeypatch.setattr(torch.utils.hooks.RemovableHandle, "next_id", handle)
        D.register_forward_pre_hook(lambda *_: None)
    D(torch.zeros(2, 3, 4, 4), torch.zeros(2, 0))
    assert D.seen[0].shape[1] == D.c_dim


def test_snapshots_name_what_they_named_before():
    """From the first release on, renaming one of these leaves people with snapshots that do not load."""
    names = {*map(full_name, (Pipe, DiffAugment, DiffusionNoise, InputRegularizer, AdaptiveT))}
    wrapped = wrap(nn.Sequential(nn.Linear(2, 1)), DiffusionNoise(10), tell="scale-shift")
    ours = (part for part in pickletools.genops(pickle.dumps(wrapped, protocol=2)) if part[0].name == "GLOBAL")
    names |= {name.replace(" ", ".") for _, name, _ in ours if name.startswith("gan_regularizers")}
    names |= {
        full_name(getattr(snapshot_parts, name))
        for name in (
            "Diffusion NoDiffusion TellT ThroughFirst ThroughEach ThroughLatents FrozenGenerator WithoutNoise"
        ).split()
    }
    names.add(full_name(ImageLatents))
    assert names == {
        "gan_regularizers.adapters.snapshot_parts.Pipe",
        "gan_regularizers.adapters.snapshot_parts.Diffusion",
        "gan_regularizers.adapters.snapshot_parts.NoDiffusion",
        "gan_regularizers.adapters.snapshot_parts.TellT",
        "gan_regularizers.adapters.snapshot_parts.ThroughFirst",
        "gan_regularizers.adapters.snapshot_parts.ThroughEach",
        "gan_regularizers.adapters.snapshot_parts.ThroughLatents",
        "gan_regularizers.adapters.snapshot_parts.FrozenGenerator",
        "gan_regularizers.adapters.snapshot_parts.WithoutNoise",
        "gan_regularizers.spider.image_latents.ImageLatents",
        "gan_regularizers.diffaugment.DiffAugment",
        "gan_regularizers.diffusion_noise.DiffusionNoise",
        "gan_regularizers.regularizer.InputRegularizer",
        "gan_regularizers.adaptive_t.AdaptiveT",
        "gan_regularizers.state.chain.Chain",
        "gan_regularizers.state.chain.Chains",
        "gan_regularizers.hooks.hook.AtTheEnd",
        "gan_regularizers.hooks.hook.AtTheLayer",
        "gan_regularizers.hooks.hook.Hook",
        "gan_regularizers.hooks.hook.scale_and_shift",
        "gan_regularizers.hooks.inputs.Inputs",
        "gan_regularizers.hooks.inputs.Place",
        "gan_regularizers.picture.Picture",
        "gan_regularizers.state.recomputation.Remembered",
        "gan_regularizers.hooks.scale_shift.ScaleShift",
    }


# Resuming.


def snapshot_of(pipe: nn.Module | None, told: int = 0, c_dim: int = 2) -> dict:
    G = SimpleNamespace(c_dim=c_dim)
    D = SimpleNamespace(c_dim=c_dim + told)
    return {"augment_pipe": pipe, "G": G, "G_ema": G, "D": D, "D_ema": D, "DHead": G, "GHead": G}


@pytest.mark.parametrize("host", STYLEGANS)
def test_stylegan_goes_on_from_a_snapshot(upstream, host):
    noise = regularizers_of(configured(host, "--reg=diffusion")).noise
    pipe = moved(Pipe(noise=noise), 0.0, 0.3)
    upstream.snapshots["run.pkl"] = snapshot_of(pipe, told=1)
    args = configured(host, "--reg=diffusion", resume_pkl="run.pkl")
    assert args.output == f"run.pkl goes on with p = 0.3, T = {int(pipe.regularizer.noise.T)}\n"
    assert args.D_kwargs.told == "t-raw"  # as the snapshot's D was
    kwargs = json.loads(json.dumps(args.augment_kwargs))
    del kwargs["class_name"]
    assert state_of(moved(Pipe(**kwargs), args.augment_p)) == state_of(pipe)

    args = configured(host, "--reg=diffusion --reg-t-max=300", resume_pkl="run.pkl")
    assert "run.pkl has another t_max, so of its noise only p = 0.3 goes on" in args.output
    assert args.augment_p == pytest.approx(0.3)
    assert "state" not in args.augment_kwargs


@pytest.mark.parametrize("pipe", [None, Augment(), Pipe(diffaug={"policy": "color"})])
def test_a_stylegan_without_noise_starts_at_p_0(upstream, pipe):
    upstream.snapshots["run.pkl"] = snapshot_of(pipe)
    args = configured("stylegan", "--reg=diffusion", resume_pkl="run.pkl")
    assert "run.pkl has no state of the noise, which starts at p = 0" in args.output
    assert "The D of run.pkl was not told t, and is not told it now" in args.output
    assert args.augment_p == 0.0
    assert "told" not in args.D_kwargs


@pytest.mark.parametrize(
    ("line", "told", "said"),
    [
        ("--reg=diffusion --reg-condition=none", 64, "whose D was trained with --reg-condition=t"),
        ("--reg=diffusion --reg-condition=t", 0, "--reg-condition=t does not fit run.pkl"),
        ("--reg=diffaug", 1, "the D of run.pkl is told t of a noise; --reg needs diffusion"),
        ("", 64, "the D of run.pkl is told t of a noise; --reg needs diffusion"),
    ],
)
def test_a_snapshot_whose_d_does_not_fit(upstream, line, told, said):
    upstream.snapshots["run.pkl"] = snapshot_of(Pipe(noise=NOISE), told)
    with pytest.raises(click.UsageError) as refused:
        configured("stylegan", line, resume_pkl="run.pkl")
    assert said in refused.value.message


def test_a_snapshot_with_other_labels_or_none_at_all(upstream, monkeypatch):
    upstream.snapshots["run.pkl"] = snapshot_of(Pipe(noise=NOISE), 64)
    unlabelled = EasyDict(resolution=64, use_labels=False)
    with pytest.raises(click.UsageError, match=r"run\.pkl was trained with --cond"):
        configured("stylegan", "--reg=diffusion", resume_pkl="run.pkl", training_set_kwargs=unlabelled)
    monkeypatch.setattr(sys.modules["dnnlib"].util, "open_url", open)
    with pytest.raises(click.UsageError, match=r"--resume=gone\.pkl: .*No such file"):
        configured("stylegan", "--reg=diffusion", resume_pkl="gone.pkl")


def test_a_snapshot_from_between_a_move_and_the_next_batch(upstream):
    """Upstream has written p, and the noise has not read it yet."""
    noise = regularizers_of(configured("stylegan", "--reg=diffusion")).noise
    pipe = moved(Pipe(noise=noise), 0.0, 0.9)
    before = int(pipe.regularizer.noise.redraws)
    pipe.p.fill_(1.2)
    upstream.snapshots["run.pkl"] = snapshot_of(pipe, told=64)
    args = configured("stylegan", "--reg=diffusion", resume_pkl="run.pkl")
    assert args.augment_p == 1.0
    assert args.augment_kwargs["state"] == {"p": 1.0, "redraws": before + 1}
    assert "goes on with p = 1, T = 500" in args.output


@pytest.mark.parametrize(("written", "stays"), [(-0.5, 0.0), (1.5, 1.0), (float("nan"), 0.25)])
def test_p_is_bounded_on_both_sides_and_survives_nan(written, stays):
    pipe = moved(Pipe(noise=NOISE), 0.25)
    with pytest.warns(UserWarning, match="NaN; p stays") if written != written else nullcontext():
        moved(pipe, written)
    assert float(pipe.p) == float(pipe.regularizer.noise.p) == stays


def test_projected_gan_goes_on_from_a_snapshot(upstream):
    D = projected_discriminator("--reg=diffusion")
    D.adaptive_t.noise.set_p(0.5)
    upstream.snapshots.update({"run.pkl": {"G_ema": None, "D": D}, "plain.pkl": {"G_ema": None, "D": nn.Identity()}})
    said = configured("projected_gan", "--reg=diffusion", resume_pkl="run.pkl").output
    assert said == f"run.pkl goes on with p = 0.5, T = {int(D.adaptive_t.T)}\n"
    said = configured("projected_gan", "--reg=diffusion", resume_pkl="plain.pkl").output
    assert said == "plain.pkl has no state of the noise, which starts at p = 0\n"
    for option in ("--reg-t-max=300", "--reg-t-min=7"):
        with pytest.raises(click.UsageError) as refused:
            configured("projected_gan", f"--reg=diffusion {option}", resume_pkl="run.pkl")
        assert refused.value.message.startswith(f"{option} does not fit run.pkl, whose noise has 5")


class Images:
    """A data set."""

    def __init__(
        self, resolution: int = 64, label_dim: int = 3, num_channels: int = 3, use_labels: bool = True
    ) -> None:
        self.resolution, self.label_dim, self.num_channels = resolution, label_dim * use_labels, num_channels


class Network(nn.Module):
    """As upstream's G and D: a block for each size, called by it, and a layer at the images."""

    def __init__(self, c_dim: int, img_resolution: int, img_channels: int, channel_max: int = 4, **kwargs) -> None:
        super().__init__()
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        self.init_kwargs = {"synthesis_kwargs": {"channel_max": channel_max}, **kwargs}
        self.fc0 = nn.Linear(8 + c_dim, channel_max)
        self.blocks = nn.ModuleDict()
        for size in (32, 64, 128):
            if size <= img_resolution:
                self.blocks[f"b{size}"] = nn.Linear(channel_max, channel_max)
        self.rgb = nn.Linear(channel_max, img_channels)
        self.register_buffer("noise_strength", torch.zeros(()))


class Head(nn.Module):
    """InsGen's."""

    def __init__(self, queue_size: int = 5) -> None:
        super().__init__()
        self.queue_size = queue_size
        self.mlp = nn.Linear(2, 2)
        self.register_buffer("queue", torch.zeros(2, queue_size))


NETWORKS = {
    "training_set_kwargs": EasyDict(class_name=full_name(Images), resolution=64, use_labels=True),
    "G_kwargs": EasyDict(class_name=full_name(Network), channel_max=4),
    "D_kwargs": EasyDict(class_name=full_name(Network), channel_max=4),
    "DHead_kwargs": EasyDict(class_name=full_name(Head)),
    "GHead_kwargs": EasyDict(class_name=full_name(Head)),
}


def resumed(upstream: SimpleNamespace, host: str, line: str = "", told: int = 0, **settings) -> EasyDict:
    """A run that goes on from networks with other settings."""
    settings = {"c_dim": 3, "img_resolution": 64, "img_channels": 3, **settings}
    G, D = Network(**settings), Network(**{**settings, "c_dim": settings["c_dim"] + told})
    snapshot = {"G": G, "G_ema": G, "D": D, "D_ema": D, "DHead": Head(), "GHead": Head(), "augment_pipe": None}
    upstream.snapshots.setdefault("run.pkl", snapshot)
    changes = {name: EasyDict(kwargs) for name, kwargs in NETWORKS.items()}
    if host != "insgen":
        del changes["DHead_kwargs"], changes["GHead_kwargs"]
    return configured(host, line, resume_pkl="run.pkl", **changes)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("line", ["", "--reg=diffaug"])
@pytest.mark.parametrize(
    ("settings", "there", "here"),
    [
        ({"c_dim": 2}, "c_dim=2", "c_dim=3"),
        ({"c_dim": 0}, "c_dim=0", "c_dim=3"),
        ({"img_channels": 4}, "img_channels=4", "img_channels=3"),
        ({"channel_max": 5}, "channel_max=5", "channel_max=4"),
        (
            {"img_resolution": 32, "channel_max": 5},
            "img_resolution=32, channel_max=5",
            "img_resolution=64, channel_max=4",
        ),
    ],
)
def test_a_snapshot_of_other_shapes_is_refused(upstream, host, line, settings, there, here):
    with pytest.raises(click.UsageError) as refused:
        resumed(upstream, host, line, **settings)
    assert refused.value.message == (
        f"--resume=run.pkl does not fit: its G has {there}, that of this run {here}; "
        "resume with data and options like its own, or leave --resume out"
    )


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ""),
        ({"conv_clamp": 256}, ""),
        ({"img_resolution": 128}, ""),
        (
            {"img_resolution": 32},
            "run.pkl lacks 2 of the 8 parameters of G and 2 of the 8 parameters of D, which start afresh"
            " (its G has img_resolution=32, that of this run img_resolution=64)\n",
        ),
        (
            {"img_channels": 1},
            "run.pkl is repeated to fill 2 tensors of G and 2 tensors of D"
            " (its G has img_channels=1, that of this run img_channels=3)\n",
        ),
    ],
)
def test_what_upstream_can_copy_goes_on_with_a_line(upstream, host, settings, said):
    """The stand-ins take what was said for true: they copy as upstream does."""
    args = resumed(upstream, host, **settings)
    assert args.output == said
    data = Images(**{name: value for name, value in args.training_set_kwargs.items() if name != "class_name"})
    new = Network(data.label_dim, data.resolution, data.num_channels)
    old = dict(upstream.snapshots["run.pkl"]["G"].named_parameters())
    for name, parameter in new.named_parameters():
        if name in old:
            parameter.data.copy_(old[name])


def test_a_tensor_says_what_no_setting_does(upstream):
    G = Network(3, 64, 3)
    G.fc0 = nn.Linear(7, 4)
    upstream.snapshots["run.pkl"] = {"G": G, "D": Network(3, 64, 3), "G_ema": G, "augment_pipe": None}
    with pytest.raises(click.UsageError, match=r"its G has fc0.weight of \[4, 7\], that of this run \[4, 11\]"):
        resumed(upstream, "stylegan")


def test_a_d_with_room_for_t_is_compared_as_such(upstream):
    assert resumed(upstream, "stylegan", "--reg=diffusion", told=1).output.startswith(
        "run.pkl has no state of the noise"
    )
    upstream.snapshots.clear()
    with pytest.raises(click.UsageError, match=r"its G has c_dim=2, that of this run c_dim=3"):
        resumed(upstream, "stylegan", "--reg=diffusion", told=64, c_dim=2)


@pytest.mark.parametrize("line", ["", "--reg=diffusion"])
@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        (("D_ema", "DHead", "GHead"), "no D_ema, which starts as its D; no DHead and GHead, which start afresh"),
        (("DHead", "GHead"), "no DHead and GHead, which start afresh"),
        (("GHead",), "no GHead, which starts afresh"),
        (("D_ema",), "no D_ema, which starts as its D"),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_insgen_completes_a_snapshot(upstream, line, lacks, said, there):
    """StyleGAN2-ADA's lack all three; those of --no_insgen have None for the heads."""
    whole = dict.fromkeys(("D_ema", "DHead", "GHead"), Head())
    D = Network(3, 64, 3)
    snapshot = {"G": D, "G_ema": D, "D": D, "augment_pipe": None, **whole}
    for name in lacks:
        snapshot[name] = None
        if not there:
            del snapshot[name]
    upstream.snapshots["run.pkl"] = snapshot
    args = resumed(upstream, "insgen", line)
    assert f"run.pkl has {said}\n" in args.output
    kwargs = json.loads(json.dumps(args.G_kwargs))
    del kwargs["class_name"]
    assert isinstance(insgen.generator(**kwargs, c_dim=3, img_resolution=64, img_channels=3), Network)
    data = upstream.legacy.load_network_pkl("run.pkl")
    for name, part in whole.items():
        if name not in lacks:
            assert data[name] is part
        elif name == "D_ema":
            assert data[name] is D
        else:
            assert not data[name].state_dict()
    assert [data[name] for name in ("G", "D", "G_ema")] == [D] * 3


def test_insgen_leaves_a_whole_snapshot_alone(upstream):
    args = resumed(upstream, "insgen")
    assert args.output == ""
    assert args.G_kwargs.class_name == full_name(Network)
    upstream.snapshots["run.pkl"].update(DHead=None, GHead=None)  # --no_insgen
    args = configured("insgen", "", **{**NETWORKS, "DHead_kwargs": None, "GHead_kwargs": None}, resume_pkl="run.pkl")
    assert args.output == ""


def test_insgens_queues_have_the_length_that_they_had(upstream):
    upstream.snapshots["run.pkl"] = {
        **dict.fromkeys(("G", "G_ema", "D", "D_ema"), Network(3, 64, 3)),
        **dict.fromkeys(("DHead", "GHead"), Head(queue_size=7)),
        "augment_pipe": None,
    }
    with pytest.raises(click.UsageError, match=r"its DHead has queue_size=7, that of this run queue_size=5"):
        resumed(upstream, "insgen")


@pytest.mark.parametrize("host", HOSTS)
def test_what_cannot_be_built_here_is_not_compared(upstream, host):
    """A fork's loop may give its networks other arguments."""
    D = Network(3, 64, 3)
    upstream.snapshots["run.pkl"] = {**snapshot_of(None), "D": D, "G": D, "G_ema": D}
    assert configured(host, "", resume_pkl="run.pkl").output == ""


# What G is fed.


class Mapping(nn.Module):
    """Upstream's mapping network, which keeps what it saw."""

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        self.fc0 = nn.Linear(z_dim, 4)

    def forward(self, z, c, truncation_psi=1, **kwargs):
        self.seen = z, (c, truncation_psi, kwargs)
        return self.fc0(z.float())


class NoiseInjection(nn.Module):
    """FastGAN's."""

    def forward(self, x):
        return x + torch.randn_like(x)


class Generator(nn.Module):
    """Upstream's generator; images [N, 3, 8, 8]."""

    def __init__(self, z_dim: int = 24, c_dim: int = 0, channels: int = 3) -> None:
        super().__init__()
        self.z_dim, self.c_dim = z_dim, c_dim
        self.mapping = Mapping(z_dim)
        self.synthesis = nn.Linear(4, channels * 64)
        self.noise = NoiseInjection()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, z, c, noise_mode="random", force_fp32=False):
        self.seen = noise_mode, force_fp32
        ws = self.mapping(z, c)
        return self.norm(self.noise(self.synthesis(ws).unflatten(1, (-1, 8, 8))).tanh())


@pytest.fixture
def pictures(tmp_path):
    """A zip of six noises with a licence."""
    path = tmp_path / "six-noises+.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(6):
            with archive.open(f"{i}.png", "w") as file:
                Image.effect_noise((40, 40), 20 + 30 * i).save(file, "PNG")
        archive.writestr("LICENSE", "by all, for all")
    return str(path)


def fed(host: str, line: str, **changes) -> tuple[nn.Module, EasyDict]:
    """The G that the training loop builds."""
    args = configured(host, line, **{"G_kwargs": EasyDict(class_name=full_name(Generator), channels=3), **changes})
    kwargs = json.loads(json.dumps(args.G_kwargs))
    del kwargs["class_name"]
    return spider.generator(**kwargs, c_dim=0), args


@pytest.mark.parametrize("host", FED)
@pytest.mark.parametrize("reg", ["", "--reg=diffaug+diffusion"])
def test_what_spider_builds(host, reg, pictures):
    args = configured(host, f"{reg} --spider={pictures} --spider-geometry=23x23")
    assert args.G_kwargs == {
        "class_name": "gan_regularizers.adapters.spider.generator",
        "base": "training.networks.Generator",
        "z_dim": 512,
        "spider": {"source": pictures, "geometry": [23, 23]},
    }
    without = configured(host, reg)
    assert {**args, "G_kwargs": 0, "desc": 0, "output": 0} == {**without, "G_kwargs": 0, "desc": 0, "output": 0}
    assert f"G is fed 6 images from {pictures}, 0.0 MB in each of G and G_ema of a snapshot" in args.output
    name = "00000-data-spider-six_noises_-[0-9a-f]{8}" + ("-diffaug-diffusion" if reg else "")
    assert re.fullmatch(name, args.desc)
    assert re.fullmatch(args.desc, args.desc)  # as ProjectedGAN has it
    others = {configured(host, f"{reg} --spider={pictures} {more}").desc for more in ("", "--spider-geometry=16x32")}
    assert len(others - {args.desc}) == 1


def test_the_run_is_named_by_what_the_images_are(pictures):
    """ProjectedGAN goes on in a folder of the same name."""
    first = configured("projected_gan", f"--spider={pictures}").desc
    with zipfile.ZipFile(pictures, "a") as archive, archive.open("7.png", "w") as file:
        Image.new("L", (9, 9)).save(file, "PNG")
    assert configured("projected_gan", f"--spider={pictures}").desc != first


@pytest.mark.parametrize("host", FED)
def test_whoever_calls_the_mapping_network_feeds_it_images(host, pictures):
    G, args = fed(host, f"--spider={pictures}")  # FastGAN's options have no z_dim either
    assert G.z_dim == 24
    latents = G.mapping.latents
    assert latents.licence == "by all, for all"
    assert (latents.images.dtype, latents.geometry) == (torch.uint8, (4, 6))
    z = torch.randn(7, 24)
    expected = latents(z)
    assert len(expected.unique(dim=0)) > 2
    for copied in (lambda G: G, copy.deepcopy, lambda G: pickle.loads(pickle.dumps(G))):
        other = copied(G)
        for call in (
            lambda G: G.mapping(z, None, truncation_psi=1),
            lambda G: G.mapping(z=z, c=None),
            lambda G: G.mapping(c=None, z=z.double()),
            lambda G: G.eval()(z, None),
        ):
            call(other)
            seen, given = other.mapping.seen
            torch.testing.assert_close(seen.float(), expected, rtol=0, atol=1e-6)
            assert given == (None, 1, {})
        other.mapping(z[:1], c="label", skip_w_avg_update=True)
        torch.testing.assert_close(other.mapping.seen[0], expected[:1])
        assert other.mapping.seen[1] == ("label", 1, {"skip_w_avg_update": True})
    assert args.output.startswith("G is fed 6 images")


def test_a_folder_without_a_licence_says_so(pictures, tmp_path):
    with zipfile.ZipFile(pictures) as archive:
        for name in archive.namelist()[:2]:
            archive.extract(name, tmp_path / "folder")
    G, _ = fed("stylegan", f"--spider={tmp_path / 'folder'}")
    assert G.mapping.latents.licence == "No licence file was found in folder."
    assert len(G.mapping.latents.images) == 2


def test_images_that_look_alike_are_refused(pictures, tmp_path):
    with zipfile.ZipFile(pictures) as archive:
        archive.extract("0.png", tmp_path / "folder")
    said = f"--spider={tmp_path / 'folder'} gives the same latent for every z: {{}}; give varied ones"
    for count, why in ((1, "it has one image"), (2, "its images look alike"), (3, "its images look alike")):
        if count > 1:
            shutil.copy(tmp_path / "folder" / "0.png", tmp_path / "folder" / f"{count}.png")
        with pytest.raises(click.UsageError) as refused:
            configured("stylegan", f"--spider={tmp_path / 'folder'}")
        assert refused.value.message == said.format(why)


@pytest.mark.parametrize("host", FED)
def test_a_generator_of_one_image_is_refused(upstream, host, monkeypatch):
    """And one of varied images is looked at no longer than it takes to see a second one."""
    rendered = []
    render = FrozenGenerator.forward
    monkeypatch.setattr(FrozenGenerator, "forward", lambda self, z: rendered.append(len(z)) or render(self, z))
    G = Generator().eval()
    upstream.snapshots["run.pkl"] = {"G_ema": G}
    configured(host, "--spider=run.pkl")
    assert sum(rendered) == 2
    nn.init.zeros_(G.synthesis.weight)
    with pytest.raises(click.UsageError) as refused:
        configured(host, "--spider=run.pkl")
    said = "--spider=run.pkl gives the same latent for every z: its images look alike; give varied ones"
    assert refused.value.message == said


def tensors_of(module: nn.Module) -> dict:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.mark.parametrize("host", FED)
def test_a_cascade_of_three(upstream, host, pictures):
    """What is frozen stays as the snapshot has it, whatever happens to the parameters."""
    levels = [fed(host, f"--spider={pictures}")[0].eval()]
    for level in range(2):
        upstream.snapshots[f"{level}.pkl"] = {"G_ema": copy.deepcopy(levels[-1])}
        G, args = fed(host, f"--spider={level}.pkl")
        assert args.output.startswith(f"G is fed a frozen generator from {level}.pkl")
        assert re.fullmatch(rf"00000-data-spider-{level}-[0-9a-f]{{8}}", args.desc)
        before = tensors_of(levels[-1])
        with torch.no_grad():
            for parameter in G.train().requires_grad_(True).parameters():
                parameter.add_(1)
        source = G.mapping.latents.source
        assert not list(source.parameters())
        assert not any(part.training for part in source.modules())
        after = tensors_of(source.G)
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        levels.append(pickle.loads(pickle.dumps(G.eval())))

    z = torch.randn(5, 24)
    G = levels[-1]
    G.mapping(z, None)
    whole = G.mapping.seen[0]
    G.mapping(z.flip(0)[:2], None)
    torch.testing.assert_close(G.mapping.seen[0], whole.flip(0)[:2], rtol=0, atol=1e-5)  # FastGAN's noise is off
    assert G.mapping.latents.source.G.seen == ("const", True)
    lowest = G.mapping.latents.source.G.mapping.latents.source.G.mapping.latents
    assert (lowest.images.dtype, lowest.licence) == (torch.uint8, "by all, for all")
    assert G.noise(z).ne(z).any()  # but on in what is trained


@pytest.mark.parametrize("host", FED)
def test_resuming_keeps_what_is_fed(upstream, host, pictures):
    G, first = fed(host, f"--spider={pictures} --spider-geometry=5x5")
    snapshot = {**snapshot_of(None), "G_ema": G}
    upstream.snapshots["run.pkl"] = snapshot
    resumed, args = fed(host, "", resume_pkl="run.pkl")
    assert args.G_kwargs.spider == {"resume": "run.pkl"}
    assert "G is fed 6 images from run.pkl" in args.output
    assert args.desc.removeprefix("00000-data-spider-run") == first.desc.removeprefix("00000-data-spider-six_noises_")
    z = torch.randn(3, 24)
    assert torch.equal(resumed.mapping.latents(z), G.mapping.latents(z))
    assert resumed.mapping.latents.licence == "by all, for all"
    for line in (f"--spider={pictures}", "--spider-geometry=5x5"):
        with pytest.raises(click.UsageError, match=r"run\.pkl goes on with what was fed to its G; leave --spider out"):
            configured(host, line, resume_pkl="run.pkl")

    upstream.snapshots["run.pkl"] = {**snapshot, "G_ema": Generator()}
    assert "spider" not in configured(host, "", resume_pkl="run.pkl").G_kwargs
    said = configured(host, f"--spider={pictures}", resume_pkl="run.pkl").output
    assert said.startswith("The G of run.pkl was trained on Gaussians; --spider changes its input\n")


@pytest.mark.parametrize("host", FED)
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--spider-geometry=16x32", "--spider-geometry=16x32 needs --spider"),
        ("--spider=PICTURES --spider-geometry=16", "--spider-geometry=16 is not ROWSxCOLUMNS, such as 16x32"),
        ("--spider=PICTURES --spider-geometry=0x9", "--spider-geometry=0 is outside [1, inf)"),
        ("--spider=PICTURES --spider-geometry=4x4", "--spider-geometry=[4, 4] has 16 pixels; a latent of z_dim=512"),
        ("--spider=nowhere", "--spider: nowhere does not exist"),
        ("--spider=EMPTY", "no image found"),
        ("--spider=BROKEN.pkl", "BROKEN.pkl is no snapshot that can be loaded here: KeyError('BROKEN.pkl')"),
        ("--spider=labels.pkl", "--spider=labels.pkl needs labels, of which none are fed"),
        ("--spider=large.pkl", "--spider=large.pkl needs a z of 513 numbers; that of this G has 512"),
    ],
)
def test_what_cannot_be_fed_is_refused_by_name(upstream, host, line, said, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    upstream.snapshots["labels.pkl"] = {"G_ema": Generator(c_dim=2)}
    upstream.snapshots["large.pkl"] = {"G_ema": Generator(z_dim=513)}
    with pytest.raises(click.UsageError) as refused:
        configured(host, line.replace("PICTURES", pictures).replace("EMPTY", str(tmp_path / "empty")))
    assert said in refused.value.message


def test_insgen_is_fed_z():
    with pytest.raises(click.NoSuchOption):
        configured("insgen", "--spider=folder")


def test_a_frozen_generator_is_no_other_one():
    G = Generator().eval()
    z = torch.randn(4, 24)
    frozen = FrozenGenerator(G)
    assert torch.equal(frozen(z), frozen(z))
    assert frozen.z_dim == 24
    G = pickle.loads(pickle.dumps(frozen)).G
    assert torch.equal(G(z, None), frozen(z))


# InsGen's loss.


class InsGenLoss:
    """Upstream's loss, as far as the contrastive branches go."""

    def __init__(self, device, augment_pipe, weight):
        self.device, self.augment_pipe, self.weight = device, augment_pipe, weight

    def run_cl(self, images, weight=1.0):
        views = self.augment_pipe
        assert isinstance(views, Augment)
        assert not views.p.requires_grad
        return weight * views(images), float(views.p)


def test_insgens_branches_see_views_without_noise():
    views = {"class_name": full_name(Augment), "scale": 5.0}
    pipe = Pipe(noise=NOISE)
    device = torch.device("cpu")
    loss = insgen.loss(full_name(InsGenLoss), views, device, augment_pipe=pipe, weight=0.5)
    assert (loss.device, loss.weight) == (device, 0.5)
    image, p = loss.run_cl(torch.ones(()), weight=2.0)
    assert (float(image), p) == (10.0, pytest.approx(0.2))
    assert loss.augment_pipe is pipe
    with pytest.raises(TypeError):
        loss.run_cl(None)
    assert loss.augment_pipe is pipe


# ProjectedGAN.


class Mixing(nn.Conv2d):
    """Keeps its input, and returns zeros."""

    def __init__(self) -> None:
        super().__init__(3, 4, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x):
        self.seen = x
        return super().forward(x)


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scratch = nn.ModuleDict({f"layer{i}_ccm": Mixing() for i in range(4)})

    def forward(self, x):
        self.seen = x
        return {str(i): layer(x[..., i:, i:]) for i, layer in enumerate(self.scratch.values())}


class ProjectedDiscriminator(nn.Module):
    """Upstream's D, whose logits here are the brightness of its images, whatever the features."""

    def __init__(self, diffaug: bool = True, channel_max: int = 0) -> None:
        super().__init__()
        self.diffaug, self.channel_max = diffaug, channel_max
        self.feature_network = Features()

    def forward(self, x, c):  # noqa: ARG002
        if self.diffaug:
            x = 1000 + x
        self.features = self.feature_network(x)
        return x.mean([1, 2, 3])


def projected_discriminator(line: str, **changes) -> nn.Module:
    kwargs = EasyDict(class_name=full_name(ProjectedDiscriminator), diffaug=True, channel_max=9)
    kwargs = configured("projected_gan", line, D_kwargs=kwargs, **changes).D_kwargs
    del kwargs["class_name"]
    return projected_gan.discriminator(**kwargs)


def noisy_places(D: nn.Module) -> tuple[bool, bool, bool]:
    """Whether there is noise on what the feature network sees, what its mixing layers see, and what they return."""
    with torch.no_grad():
        D(torch.ones(64, 3, 8, 8), None)
    network = D.feature_network
    places = [network.seen], [layer.seen for layer in network.scratch.values()], list(D.features.values())
    noisy = [[tensor.std() > 0 for tensor in tensors] for tensors in places]
    assert all(len(set(map(bool, each))) == 1 for each in noisy)  # all four maps alike
    return tuple(bool(each[0]) for each in noisy)


PLACES = {"pixels": (True, True, False), "first": (False, True, False), "last": (False, False, True)}


@pytest.mark.parametrize("where", PLACES)
def test_projected_gans_noise_acts_where_it_should(where):
    D = projected_discriminator(f"--reg=diffusion --reg-where={where}")
    assert (D.diffaug, D.channel_max) == (False, 9)
    assert float(D.adaptive_t.p) == 0.0
    D.adaptive_t.noise.set_p(1.0)
    assert noisy_places(D) == PLACES[where]
    assert [name for name in D.state_dict() if "noise" in name] == ["adaptive_t.noise.p", "adaptive_t.noise.redraws"]
    for other in (copy.deepcopy(D), pickle.loads(pickle.dumps(D))):
        other.adaptive_t.noise.enabled = False
        assert noisy_places(other) == (False, False, False)
    assert noisy_places(D) == PLACES[where]


def test_diffaug_takes_the_place_of_upstreams():
    for line in ("--reg=diffaug --reg-policy=color", "--reg=diffaug+diffusion --reg-policy=color"):
        D = projected_discriminator(line)
        assert noisy_places(D)[0]
        assert D.feature_network.seen.abs().max() < 3
        assert hasattr(D, "adaptive_t") is ("diffusion" in line)


class ReportingLoss:
    """Upstream's loss: reals are bright and fakes dark, and the signs of D's outputs on reals are reported."""

    def __init__(self, device, D, weight):
        self.device, self.D, self.weight = device, D, weight

    def accumulate_gradients(self, phase, real_img, real_c):
        from torch_utils import training_stats

        fakes = -torch.ones_like(real_img)
        if phase != "Greg":
            training_stats.report("Loss/signs/fake", self.D(fakes, real_c).sign())
        if phase.startswith("D"):
            training_stats.report("Loss/signs/real", self.D(real_img.detach(), real_c).sign())
        if real_img.isnan().any():
            raise FloatingPointError("NaN")


@pytest.mark.parametrize("phase", ["D", "Dmain", "Dboth"])
@pytest.mark.parametrize("parallel", [False, True])
def test_t_moves_by_the_signs_that_the_loss_reports(upstream, phase, parallel):
    D = projected_discriminator("--reg=diffusion --reg-kimg=0.1", batch_gpu=16)
    shown = nn.Sequential() if parallel else D
    if parallel:  # as DistributedDataParallel has it
        shown.module = D
        shown.forward = D.forward
    loss = inside_d.loss(full_name(ReportingLoss), shown, "Progress/augment", device="cpu", weight=2)
    assert (loss.device, loss.weight) == ("cpu", 2)
    reals = torch.ones(5, 3, 8, 8)
    report = sys.modules["torch_utils.training_stats"].report
    for _ in range(4):
        assert upstream.reports == []
        for name in ("Gboth", phase, "Greg", "Dreg"):
            loss.accumulate_gradients(name, real_img=reals, real_c=None)
            assert sys.modules["torch_utils.training_stats"].report is report
    assert float(D.adaptive_t.r_d) == 1.0  # fakes would have lowered it
    assert float(D.adaptive_t.p) == pytest.approx(4 * 5 / 100)
    assert upstream.reports == [("Progress/augment", pytest.approx(0.2)), ("Progress/augment_T", 5 + 99)]
    with pytest.raises(FloatingPointError):
        loss.accumulate_gradients(phase, torch.full_like(reals, torch.nan), None)
    assert sys.modules["torch_utils.training_stats"].report is report


def test_projected_gans_noise_follows_a_copied_state():
    """Upstream resumes by copying parameters and buffers into a new D, one by one."""
    source, D = (projected_discriminator("--reg=diffusion") for _ in range(2))
    source.adaptive_t.noise.set_p(0.5)
    state = source.state_dict()
    for name, value in D.named_buffers():
        if name in state:
            value.copy_(state[name])
    assert D.adaptive_t.T == source.adaptive_t.T == 5 + 248
    for name in ("t_list", "gain", "noise_scale"):
        assert torch.equal(getattr(D.adaptive_t.noise, name), getattr(source.adaptive_t.noise, name)), name


# StyleGAN-XL's D and Diffusion-ProjectedGAN's.


class OwnDiffusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = 0.0

    def forward(self, x, noise_std):  # noqa: ARG002
        raise AssertionError("the repository's own diffusion acts")


class DiffusedFeatures(Features):
    """Diffusion-ProjectedGAN's, which sends its features through its own diffusion."""

    def __init__(self) -> None:
        super().__init__()
        self.diffusion = OwnDiffusion()

    def forward(self, x):
        return super().forward(self.diffusion(x, noise_std=0.5))


class DiffusedDiscriminator(ProjectedDiscriminator):
    def __init__(self, diffaug: bool = True, channel_max: int = 0) -> None:
        super().__init__(diffaug, channel_max)
        self.feature_network = DiffusedFeatures()


class SeveralDiscriminator(nn.Module):
    """StyleGAN-XL's, one of whose networks does not mix channels."""

    def __init__(self, diffaug: bool = True, backbones: tuple[str, ...] = ()) -> None:
        super().__init__()
        assert not diffaug
        self.feature_networks = nn.ModuleDict({name: Features() for name in backbones})
        for network in self.feature_networks.values():
            network.mixing = network.scratch
        self.feature_networks[backbones[-1]].__dict__["forward"] = self._raw
        self.feature_networks[backbones[-1]].scratch = None

    @staticmethod
    def _raw(x):
        return {str(i): x[..., i:, i:] for i in range(4)}

    def forward(self, x, c):  # noqa: ARG002
        self.features = {name: network(x) for name, network in self.feature_networks.items()}
        return [x.mean([1, 2, 3], keepdim=True)] * len(self.features)


@pytest.mark.parametrize("line", ["--reg=diffusion", "--reg=diffusion --reg-where=pixels", "--reg=diffaug"])
def test_a_diffusion_of_ds_own_is_off(line):
    D_kwargs = EasyDict(class_name=full_name(DiffusedDiscriminator), diffaug=True)
    kwargs = configured("projected_gan", line, D_kwargs=D_kwargs).D_kwargs
    del kwargs["class_name"]
    D = projected_gan.discriminator(**kwargs)
    with torch.no_grad():
        D(torch.ones(2, 3, 8, 8), None)
    for other in (D, copy.deepcopy(D), pickle.loads(pickle.dumps(D))):
        inert = other.feature_network.diffusion
        other_p = 0.0
        if "diffusion" in line:
            other.adaptive_t.noise.set_p(0.5)
            other_p = 0.5
        inert.p = inert.p + 0.25  # as the loop's controller does
        inert.update_T()
        assert inert.p == other_p
        assert inert.num_timesteps == (other.adaptive_t.T if other_p else 0)
    assert not [name for name in D.state_dict() if "feature_network.diffusion" in name]


@pytest.mark.parametrize("where", PLACES)
def test_the_noise_acts_on_all_networks(where):
    D_kwargs = EasyDict(class_name=full_name(SeveralDiscriminator), diffaug=True, backbones=("a", "b", "raw"))
    kwargs = configured("projected_gan", f"--reg=diffusion --reg-where={where}", D_kwargs=D_kwargs).D_kwargs
    del kwargs["class_name"]
    D = projected_gan.discriminator(**kwargs)
    D.adaptive_t.noise.set_p(1.0)
    with torch.no_grad():
        D(torch.ones(64, 3, 8, 8), None)
    for name in ("a", "b"):
        mixed = [layer.seen for layer in D.feature_networks[name].mixing.values()]
        assert {bool(x.std() > 0) for x in mixed} == {where != "last"}
        assert {bool(y.std() > 0) for y in D.features[name].values()} == {where == "last"}
    assert {bool(y.std() > 0) for y in D.features["raw"].values()} == {True}  # a network that does not mix


def test_fastgan_begins_lower_in_diffusion_gan():
    G_kwargs = EasyDict(class_name="pg_modules.networks_fastgan.Generator")
    configured("projected_gan", "--reg=diffusion", f"{ARGUMENTS['projected_gan']} target", G_kwargs=G_kwargs)


# R3GAN, DeceiveD.


class Holder(nn.Module):
    """R3GAN's first layer, which only uses the weight of the layer in it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, channels, 1, bias=False)

    def forward(self, x):
        self.seen = x
        return nn.functional.conv2d(x, self.layer.weight)


class Critic(nn.Module):
    """A D whose outputs are the brightness that its first layer leaves."""

    def __init__(self, c_dim: int, img_resolution: int, img_channels: int = 3, holds: bool = True) -> None:
        super().__init__()
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        self.first = Holder(4) if holds else Mixing()
        self.last = nn.Linear(4, 1)

    def forward(self, x, c):  # noqa: ARG002
        self.calls = getattr(self, "calls", 0) + 1
        return self.last(self.first(x).mean([2, 3]))


def critic(line: str, holds: bool = True, **changes) -> nn.Module:
    kwargs = configured("wrapped", line, D_kwargs=EasyDict(class_name=full_name(Critic), holds=holds), **changes)
    kwargs = json.loads(json.dumps(kwargs.D_kwargs))
    del kwargs["class_name"]
    return wrapped.discriminator(**kwargs, c_dim=2, img_resolution=8)


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("copied", [lambda D: D, copy.deepcopy, lambda D: pickle.loads(pickle.dumps(D))])
def test_d_is_told_t_by_the_layer_that_runs_first(holds, copied, recwarn):
    D = copied(critic("--reg=diffusion", holds))
    layer = D.first
    assert all(torch.equal(buffer, buffer.clone()) for buffer in D.to("cpu").buffers())  # R3GAN compares its ranks
    assert (D.c_dim, D.img_resolution, hasattr(layer, "weight")) == (2, 8, not holds)
    assert any("scale_shift" in name for name, _ in D.named_parameters())
    told = []
    layer.scale_shift.register_forward_hook(lambda module, *_: told.append(module._t))
    D.adaptive_t.noise.set_p(1.0)
    D(1e6 * torch.ones(16, 3, 8, 8), torch.zeros(16, 2))
    # The images are so bright that their noise is nothing beside their gain, which says what t was.
    t = (layer.seen[:, :1, 0, 0] / 1e6 - D.adaptive_t.noise.gain).abs().argmin(1)
    assert t.unique().numel() > 1
    assert torch.equal(told[0], t)
    D(torch.ones(2, 3, 8, 8), torch.zeros(2, 2)).sum().backward()
    assert all(parameter.grad is not None for name, parameter in D.named_parameters() if "scale_shift" in name)
    assert not recwarn.list


@pytest.mark.parametrize("line", ["--reg=diffusion --reg-condition=none", "--reg=diffaug --reg-policy=color"])
def test_a_d_that_is_told_nothing(line):
    D = critic(line)
    assert not [name for name, _ in D.named_parameters() if "scale_shift" in name]
    assert hasattr(D, "adaptive_t") is ("diffusion" in line)
    if "diffusion" in line:
        D.adaptive_t.noise.set_p(1.0)
    D(torch.ones(8, 3, 8, 8), torch.zeros(8, 2))
    assert D.first.seen.std() > 0


def test_what_wrapped_builds():
    args = configured("wrapped", "--reg=diffusion", apa_target=0.6, with_dataaug=False, d_batch_gpu=4)
    assert args.D_kwargs["class_name"] == "gan_regularizers.adapters.wrapped.discriminator"
    assert (args.D_kwargs["told"], args.D_kwargs["controller"]["interval"]) == ("t", 4 * 4)
    assert args.loss_kwargs == {
        "class_name": "gan_regularizers.adapters.inside_d.loss",
        "base": "training.loss.Loss",
        "p_name": "Progress/augment_p",
        "r1_gamma": 1.0,
    }
    args = configured("wrapped", "--reg=diffaug", apa_target=0.6, augment_p=0.5, with_dataaug=True)
    assert not {"augment_kwargs", "apa_target", "augment_p", "with_dataaug"} & args.keys()
    assert args.loss_kwargs.class_name == "training.loss.Loss"
    assert (args.D_kwargs["told"], args.D_kwargs["noise"]) == ("none", None)


def test_wrapped_goes_on_from_a_snapshot(upstream):
    D = critic("--reg=diffusion")
    D.adaptive_t.noise.set_p(0.5)
    upstream.snapshots.update({"run.pkl": {"D": D}, "plain.pkl": {"D": Critic(0, 8)}})
    args = configured("wrapped", "--reg=diffusion", resume_pkl="run.pkl")
    assert args.output == f"run.pkl goes on with p = 0.5, T = {int(D.adaptive_t.T)}\n"
    assert args.D_kwargs.told == "t"
    args = configured("wrapped", "--reg=diffusion", resume_pkl="plain.pkl")
    assert args.D_kwargs.told == "none"
    assert args.output == (
        "The D of plain.pkl was not told t, and is not told it now\n"
        "plain.pkl has no state of the noise, which starts at p = 0\n"
    )
    other = critic("--reg=diffusion", resume_pkl="run.pkl")
    assert [parameter.shape for parameter in other.parameters()] == [parameter.shape for parameter in D.parameters()]
    for line, snapshot, said in (
        ("--reg=diffusion --reg-t-max=300", "run.pkl", "--reg-t-max=300 does not fit run.pkl, whose noise has 500"),
        ("--reg=diffusion --reg-condition=none", "run.pkl", "whose D was trained with --reg-condition=t"),
        ("--reg=diffusion --reg-condition=t", "plain.pkl", "whose D was trained with --reg-condition=none"),
        ("--reg=diffaug", "run.pkl", "the D of run.pkl is told t of a noise; --reg needs diffusion"),
        ("", "run.pkl", "the D of run.pkl is told t of a noise; --reg needs diffusion"),
    ):
        with pytest.raises(click.UsageError) as refused:
            configured("wrapped", line, resume_pkl=snapshot)
        assert said in refused.value.message


# Diffusion-GAN's own StyleGAN2 and InsGen.


@pytest.mark.parametrize("name", ["diffusion", "augment"])
def test_what_diffusion_gan_builds(name):
    arguments = ARGUMENTS["diffusion_gan"].replace("diffusion_", f"{name}_")
    args = configured("diffusion_gan", "--reg=diffusion", arguments, ada_target=0.3)
    pipe = args[f"{name}_kwargs"]
    assert pipe["class_name"] == "gan_regularizers.adapters.snapshot_parts.Diffusion"
    assert (args[f"{name}_p"], args.ada_target, args.ada_kimg) == (0.0, 0.6, 100.0)
    args = configured("diffusion_gan", "--reg=diffaug", arguments)
    assert args[f"{name}_p"] == 1.0
    assert "ada_target" not in args
    assert args[f"{name}_kwargs"]["noise"] is None


def test_diffusion_gans_loop_moves_p_as_a_number():
    pipe = snapshot_parts.Diffusion(noise=NOISE)
    pipe.p = 0
    pipe(torch.zeros(8, 3, 4, 4))
    assert pipe.num_timesteps == 10
    for expected in (0.5, 1.0, 1.0):
        pipe.p = (pipe.p + 0.5).clip(min=0.0, max=1.0)
        pipe.update_T()
        assert float(torch.FloatTensor([pipe.p])) == float(pipe.regularizer.noise.p) == expected
        assert pipe.num_timesteps == pipe.regularizer.noise.T == 10 + expected * 490
    assert isinstance(pipe.p, torch.Tensor)
    assert [name for name, _ in pipe.named_buffers()].count("p") == 1
    images, t = pipe(1e6 * torch.ones(16, 3, 4, 4))
    assert (t.dtype, list(t.shape)) == (torch.int64, [16, 1])
    gain = pipe.regularizer.noise.gain
    assert torch.equal(t[:, 0], (images[:, :1, 0, 0] / 1e6 - gain).abs().argmin(1))
    other = pickle.loads(pickle.dumps(pipe))
    other.p = 0.25
    other.update_T()
    assert (float(pipe.p), float(other.p), other.num_timesteps) == (1.0, 0.25, 10 + 122)


def test_diffusion_gan_without_noise_diffuses_nothing():
    pipe = snapshot_parts.Diffusion(diffaug={"policy": "translation"})
    pipe.p = 1.0
    pipe.update_T()
    x = torch.randn(4, 3, 8, 8)
    images, t = pipe(x)
    assert t.tolist() == [[0]] * 4
    assert pipe.num_timesteps == 0
    assert set(images.flatten().tolist()) <= {0.0, *x.flatten().tolist()}


@pytest.mark.parametrize("key", ["diffusion", "augment_pipe"])
def test_diffusion_gan_goes_on_from_a_snapshot(upstream, key):
    noise = configured("diffusion_gan", "--reg=diffusion").diffusion_kwargs["noise"]
    pipe = snapshot_parts.Diffusion(noise=noise)
    pipe.p = 0.5
    pipe.update_T()
    upstream.snapshots["run.pkl"] = {"augment_pipe": None, key: pipe}
    args = configured("diffusion_gan", "--reg=diffusion", resume_pkl="run.pkl")
    assert args.output == f"run.pkl goes on with p = 0.5, T = {pipe.num_timesteps}\n"
    assert args.diffusion_p == 0.5
    kwargs = json.loads(json.dumps(args.diffusion_kwargs))
    del kwargs["class_name"]
    resumed = snapshot_parts.Diffusion(**kwargs)
    resumed.p = args.diffusion_p
    resumed(torch.zeros(1, 3, 4, 4))
    assert state_of(resumed) == state_of(pipe)
    upstream.snapshots["run.pkl"] = {"augment_pipe": None, key: OwnDiffusion()}
    args = configured("diffusion_gan", "--reg=diffusion", resume_pkl="run.pkl")
    assert args.output == "run.pkl has no state of the noise, which starts at p = 0\n"
    assert args.diffusion_p == 0.0


# What the repositories are asked before anything is made.


@pytest.mark.parametrize("host", HOSTS)
def test_a_training_loop_that_takes_too_little_is_refused(host):
    for missing in ARGUMENTS[host].split():
        if missing in ("diffusion_kwargs",) or (host, missing) == ("wrapped", "augment_kwargs"):
            continue
        if host == "diffusion_gan" and missing in _OF_ALL:
            continue
        arguments = ARGUMENTS[host].replace(missing, "").strip()
        with pytest.raises(click.UsageError) as refused:
            configured(host, "--reg=diffusion", arguments)
        assert refused.value.message == (
            f"--reg needs {missing}, which training_loop() of this repository does not take; leave it out"
        )
        assert configured(host, "", arguments).desc == "00000-data"


def test_a_loss_that_augments_more_than_images_is_refused():
    loss_kwargs = EasyDict(class_name="training.loss.FeatureLoss")
    for host in STYLEGANS:
        with pytest.raises(click.UsageError, match=r"training\.loss\.FeatureLoss augments more than images"):
            configured(host, "--reg=diffaug", loss_kwargs=loss_kwargs)
    assert configured("stylegan", "", loss_kwargs=loss_kwargs).desc == "00000-data"


def test_a_diffaugment_in_the_loss_is_off():
    def policy(line: str) -> str:
        loss_kwargs = EasyDict(class_name="training.loss.Loss", diffaugment="color")
        return configured("stylegan", line, loss_kwargs=loss_kwargs).loss_kwargs.diffaugment

    assert policy("") == policy("--DiffAugment=color") == "color"
    assert policy("--reg=diffaug") == policy("--reg=diffusion --DiffAugment=") == ""


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--reg=diffaug --DiffAugment=color", "--DiffAugment=color does not go with --reg=diffaug; use --reg-policy"),
        ("--reg=diffusion --DiffAugment=color", "--DiffAugment=color does not go with --reg=diffusion"),
        ("--reg=diffusion --with-dataaug=1", "--with-dataaug=True does not go with --reg=diffusion"),
        ("--reg=diffusion --t_min=5", "--t_min=5 does not go with --reg=diffusion; use --reg-t-min"),
        ("--reg=diffaug --t_min=5", "--t_min=5 does not go with --reg=diffaug"),
        ("--reg=diffusion --beta_start=0.1", "--beta_start=0.1 does not go with --reg=diffusion"),
    ],
)
def test_options_without_effect_are_refused(host, line, said):
    with pytest.raises(click.UsageError) as refused:
        configured(host, line)
    assert refused.value.message == said
    assert configured(host, line.partition(" ")[2]).desc == "00000-data"
    assert configured(host, "--reg=diffaug --aug=noaug --with-dataaug=0")


@pytest.mark.parametrize("host", ["wrapped", "projected_gan"])
def test_a_loss_that_never_says_what_the_noise_adapts_by_is_refused(host):
    training_loop_of("D_kwargs loss_kwargs")
    silent = {"loss_kwargs": EasyDict(class_name="training.loss.SilentLoss")}
    with pytest.raises(click.UsageError, match="SilentLoss reports no Loss/signs/real, by which the noise adapts; use"):
        configured(host, "--reg=diffusion", **silent)
    assert configured(host, "--reg=diffaug", **silent).loss_kwargs == silent["loss_kwargs"]
