"""What is timed: a part of the regularizers on one kind of batch, in one mode, by every competitor."""

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import DiffAugment, DiffusionNoise, InputRegularizer, use_backend
from ...io.errors import CommandError
from . import equivalents
from .baseline import draw, official_sequence
from .settings import MOST_IMAGE_CHANNELS, Settings, Shape

OURS = "gan_regularizers"
REPLAYED = "gan_regularizers, parameters given"
REFERENCE = "reference backend"
SEQUENCE = "official sequence"
REPLAYED_SEQUENCE = "official sequence, parameters given"
COMPILED = "torch.compile"
AUTOTUNED = "torch.compile max-autotune"
FILE = "official file"
KORNIA = "kornia"
TORCHVISION = "torchvision"
CLONE = "clone"
COMPETITORS = (
    OURS,
    REPLAYED,
    REFERENCE,
    COMPILED,
    AUTOTUNED,
    SEQUENCE,
    REPLAYED_SEQUENCE,
    FILE,
    KORNIA,
    TORCHVISION,
    CLONE,
)
LIBRARIES = {KORNIA: equivalents.kornia, TORCHVISION: equivalents.torchvision}

FILE_NAME = "DiffAugment_pytorch.py"
_POLICIES = {"noise": "", "diffused": "", "augment": "color,translation,cutout", "all": "color,translation,cutout"}
_NOISE: dict[str, dict[str, Any]] = {"noise": {}, "diffused": {"clean_share": 0.0}, "all": {}}  # settings of its own
_MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# Passes of the operator over the batch: the map; and its adjoint; and, for the penalty's gradient, its linear part.
PASSES = {"forward": 1, "forward+backward": 2, "r1": 3}

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """A part on batches of one shape, dtype and memory layout."""

    shape: Shape
    dtype: str
    layout: str
    part: str

    @property
    def policy(self) -> str:
        """Of DiffAugment."""
        return _POLICIES.get(self.part, self.part)

    @property
    def noise(self) -> DiffusionNoise | None:
        """The noise after it."""
        settings = _NOISE.get(self.part)
        if settings is None:
            return None
        return DiffusionNoise.preset("projected_gan", **settings) if self.per_channel else DiffusionNoise(**settings)

    @property
    def per_channel(self) -> bool:
        """Whether the batch is a feature map, with one t per channel."""
        return self.shape[1] > MOST_IMAGE_CHANNELS

    @property
    def tensor_bytes(self) -> int:
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize

    def floor_bytes(self, mode: str) -> int:
        """Every pass of the operator reads its input once and writes its output once."""
        return 2 * self.tensor_bytes * PASSES[mode]


class Batch(NamedTuple):
    """Images in [-1, 1], and the gradient that a discriminator sends back to their transforms."""

    x: Tensor
    cotangent: Tensor

    def in_unit_range(self) -> "Batch":
        """The same images in [0, 1]."""
        return Batch(((self.x.detach() + 1) / 2).requires_grad_(), self.cotangent)


def subjects(settings: Settings) -> Iterator[Subject]:
    """The subjects of a run; a feature map has no colours and no place to move to."""
    for kind in itertools.product(settings.shapes, settings.dtypes, settings.layouts, settings.parts):
        subject = Subject(*kind)
        if not (subject.per_channel and subject.policy):
            yield subject


def batch(subject: Subject, device: str) -> Batch:
    """Random tensors of the subject's shape, dtype and layout."""
    kind = {"dtype": getattr(torch, subject.dtype), "memory_format": _MEMORY_FORMATS[subject.layout]}
    x, cotangent = torch.rand(subject.shape, device=device) * 2 - 1, torch.randn(subject.shape, device=device)
    return Batch(x.to(**kind).requires_grad_(), cotangent.to(**kind).requires_grad_())


def transforms(subject: Subject, settings: Settings, backend: str, official: ModuleType | None) -> dict[str, Transform]:
    """The competitors on this subject, without the clone; all but those with parameters given draw theirs."""
    policy, noise = subject.policy, subject.noise
    if noise is not None:
        noise.to(settings.device)
    ours = InputRegularizer(DiffAugment(policy) if policy else None, noise)

    def sequence(x: Tensor) -> Tensor:
        return official_sequence(x, *draw(x, policy, noise))

    def reference(x: Tensor) -> Tensor:
        with use_backend("reference"):
            return ours(x)

    def file(x: Tensor) -> Tensor:
        y = official.DiffAugment(x, policy=policy)
        return official_sequence(y, *draw(y, "", noise))

    like = torch.empty(subject.shape, dtype=getattr(torch, subject.dtype), device=settings.device)
    params = ours.sample(like)
    competitors: dict[str, Transform] = {OURS: ours, REPLAYED: lambda x: ours(x, params=params)}
    if backend != "reference":
        competitors[REFERENCE] = reference
    if settings.compile:
        # The limit on recompilations counts per function, and beyond it calls would silently be eager.
        torch.compiler.reset()
        # On the CPU eager's generator is faster than the compiler's own, so that is what is compared with.
        options = {"fallback_random": True} if settings.device == "cpu" else None
        competitors[COMPILED] = torch.compile(sequence, fullgraph=True, dynamic=False, options=options)
    if settings.autotune:
        mode = "max-autotune-no-cudagraphs"
        competitors[AUTOTUNED] = torch.compile(sequence, fullgraph=True, dynamic=False, mode=mode)
    competitors[SEQUENCE] = sequence
    if subject.part == "diffused":
        drawn = draw(like, "", noise).params
        competitors[REPLAYED_SEQUENCE] = lambda x: official_sequence(x, drawn, torch.randn_like(x))
    if official is not None and policy:
        competitors[FILE] = file
    if policy and noise is None:
        for name, library in LIBRARIES.items():
            competitors[name] = lambda x, library=library: library(policy)(x)
    return competitors


def call(mode: str, transform: Transform, batch: Batch) -> Callable[[], Any]:
    """A step of a mode as a function without arguments.

    R1 penalises the gradient g of D's output with respect to x. D's weights act on it through the gradient that D sends
    back, the cotangent, and the transform is affine in x, so all that R1 asks of it beyond g is the gradient of
    1/2 |g|^2 with respect to the cotangent. That is timed, without a D.
    """

    def forward() -> Tensor:
        with torch.no_grad():
            return transform(batch.x)

    def forward_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(transform(batch.x), batch.x, batch.cotangent)

    def r1() -> tuple[Tensor, ...]:
        (g,) = torch.autograd.grad(transform(batch.x), batch.x, batch.cotangent, create_graph=True)
        return torch.autograd.grad(g, batch.cotangent, g.detach())

    return {"forward": forward, "forward+backward": forward_backward, "r1": r1}[mode]


def calls(mode: str, transforms: dict[str, Transform], batch: Batch) -> dict[str, Callable[[], Any]]:
    """A step of a mode by every competitor, each on images in the range that it takes, and a clone."""
    unit, x = batch.in_unit_range(), batch.x.detach()
    batches = {name: unit if name in LIBRARIES else batch for name in transforms}
    return {**{name: call(mode, transforms[name], batches[name]) for name in transforms}, CLONE: x.clone}


def load_official(folder: Path) -> ModuleType:
    """Import the official file from a checkout of data-efficient-gans."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise CommandError(f"--official {folder} holds no {FILE_NAME}; name a checkout of data-efficient-gans")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # somebody else's code
        raise CommandError(f"--official: {path} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "DiffAugment", None)):
        raise CommandError(f"--official: {path} defines no DiffAugment")
    return module
