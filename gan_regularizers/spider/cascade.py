"""Cascades of Spider GAN (arXiv 2305.07613): the images of one generator are the input of the next."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .image_latents import ImageLatents


class Cascade(nn.Module):
    """Generators in a row: the first maps z to images, each other one the latents that ``ImageLatents`` makes of them.

    The method is that of Spider GAN (arXiv 2305.07613). All but the last are frozen copies, as in ``ImageLatents``; the
    last one is the module itself, to be trained. A cascade is a generator, so it may be a part of another one. One
    pickle or ``state_dict`` holds all of it. Differentiable with respect to z, as often as the generators are.

    Args:
        generators: at least two. Each maps latents [N, k] to images [N, C, H, W] in [-1, 1], the frozen ones
            deterministically; k is their attribute ``z_dim``.
        geometry: of ``ImageLatents``.
        centered: of ``ImageLatents``.

    Raises:
        TypeError: one of them is no module.
        ValueError: fewer than two, one without ``z_dim``, a geometry or a generator that ``ImageLatents`` refuses, or z
            of another shape.
    """

    def __init__(self, *generators: nn.Module, geometry: Sequence[int] | None = None, centered: bool = True) -> None:
        super().__init__()
        if len(generators) < 2:
            raise ValueError(f"{len(generators)} generators are no cascade; give at least two")
        for generator in generators:
            if not isinstance(generator, nn.Module):
                raise TypeError(f"a {type(generator).__name__} is no generator; give modules")
            if not hasattr(generator, "z_dim"):
                raise ValueError(f"a {type(generator).__name__} has no z_dim; set that to what it takes")
        *earlier, last = generators
        source = earlier[0] if len(earlier) == 1 else Cascade(*earlier, geometry=geometry, centered=centered)
        self.latents = ImageLatents(source, last.z_dim, geometry=geometry, centered=centered)
        self.generator = last

    @property
    def z_dim(self) -> int:
        """Numbers in z, which the first generator takes."""
        return self.latents.source.z_dim

    def forward(self, z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Z [N, z_dim] -> images of the last generator, which is given all other arguments."""
        return self.generator(self.latents(z), *args, **kwargs)
