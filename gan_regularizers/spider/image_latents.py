"""The generator's input of Spider GAN (arXiv 2305.07613): images of a friendly neighbour instead of a Gaussian."""

import copy
import json
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..arguments import number, whole_number

STORED_SIDE = 32  # of the images, as of the official input generators
_MEAN_OF = 64  # images of a generator, for the mean of its latents; large ones take long on a CPU


class ImageLatents(nn.Module):
    """Maps the Gaussian z that every GAN tool feeds to an image, and the image to the latent of a generator.

    The same z always gives the same latent, and a Gaussian z an image of the set with equal probabilities: the first
    number of z picks it, by the normal distribution function. So all that draws, mixes or stores z stays as it was.

    The latent is as in the official code of Spider GAN (arXiv 2305.07613): the mean over the channels of an image in
    [-1, 1], resized (bilinear) to the geometry, flattened, cut to ``z_dim``; and divided by its root mean square, as
    StyleGAN's mapping network does. But before that the mean latent of the set is subtracted, which the official code
    does not do: what all images share, such as a white background, would else make up most of every latent.

    Differentiable with respect to z, as often as the source is, if that is a generator; the choice of a stored image
    has no gradient.

    Args:
        source: images, uint8 [M, C, H, W], of which copies of at most 32 x 32 pixels are kept in the buffer ``images``;
            or a generator, that is a module which maps z [N, k] to images [N, C, H, W] in [-1, 1], deterministically.
            A frozen copy of it is kept, which is always in eval mode and has buffers for parameters: no optimiser,
            ``requires_grad_`` or reduction of gradients finds any. Its attribute ``z_dim`` is k.
        z_dim: numbers in a latent.
        geometry: rows and columns that images are resized to, of at least z_dim pixels together; the official ones are
            (16, 32) and (23, 23). By default the rows and columns nearest to a square whose product is z_dim, (16, 32)
            for 512, or, where that is no better than 1 : 2, the smallest square with enough of them.
        centered: whether the mean latent is subtracted: of all images, or of 64 that the generator makes. False gives
            the official latents.
        jitter: standard deviation of a Gaussian that is added to a latent before its scaling; its numbers are those of
            z, so k must be z_dim or more. A set gives only as many latents as it has images; this gives more. Not in
            the paper, and only with images.
        licence: who made the images and under what licence; it travels in ``state_dict`` and in pickles.

    Shape:
        z [N, k] floating with k >= 1 -> latents [N, z_dim] of z's dtype. N may be 1 or 0. In bfloat16, z picks from at
        most some hundred images.

    Raises:
        TypeError: a source that is neither.
        ValueError: no images, images other than uint8 [M, C, H, W], centered ones that are all alike, a generator's
            too, a generator without ``z_dim`` or that cannot be copied, a geometry too small, a setting out of range, z
            of another shape or too short.
    """

    images: Tensor
    mean_latent: Tensor  # [z_dim]

    def __init__(
        self,
        source: Tensor | nn.Module,
        z_dim: int,
        *,
        geometry: Sequence[int] | None = None,
        centered: bool = True,
        jitter: float = 0.0,
        licence: str = "",
    ) -> None:
        super().__init__()
        self.z_dim = whole_number("z_dim", z_dim, "[1, inf)")
        self.geometry = _geometry(geometry, self.z_dim)
        self.jitter = number("jitter", jitter, "[0, inf)")
        self.licence = licence
        if isinstance(source, nn.Module):
            if self.jitter:
                raise ValueError(f"jitter={jitter!r} is for images; a generator gives as many latents as there are z")
            if not hasattr(source, "z_dim"):
                raise ValueError(f"source is a {type(source).__name__} without z_dim; set that to what it takes")
            try:
                self.source: nn.Module | None = freeze(copy.deepcopy(source))
            except RuntimeError as error:
                raise ValueError(f"source cannot be frozen; has it torch's old weight_norm? {error}") from error
        elif isinstance(source, Tensor):
            self.source = None
            self.register_buffer("images", _stored(source))
        else:
            raise TypeError(f"source is a {type(source).__name__}; give images, uint8 [M, C, H, W], or a module")
        device = next((buffer.device for buffer in self.buffers()), None)
        self.register_buffer("mean_latent", torch.zeros(self.z_dim, dtype=torch.float32, device=device))
        if centered:
            if self.look_alike():
                what = "makes images" if self.source is not None else f"has {len(self.images)} images"
                raise ValueError(f"source {what} that look alike; give varied ones, or centered=False")
            self.mean_latent.copy_(torch.cat(list(self._some_latents(32))).mean(0))

    def forward(self, z: Tensor) -> Tensor:
        """Z [N, k] -> latents [N, z_dim]."""
        if z.ndim != 2 or z.shape[1] == 0 or not z.is_floating_point():
            raise ValueError(f"z has shape {list(z.shape)} and {z.dtype}; give floats [N, k] with k >= 1")
        latents = self._of_images(z) if self.source is None else self._of_source(z)
        return (latents * (latents.square().mean(1, keepdim=True) + 1e-8).rsqrt()).to(z.dtype)

    def index(self, z: Tensor) -> Tensor:
        """Which of the stored images each z [N, k] picks, int64 [N].

        Raises:
            ValueError: the source is a generator.
        """
        if self.source is not None:
            raise ValueError("index is for stored images; here a generator makes one for each z")
        return self._pick(z)[0]

    def train(self, mode: bool = True) -> "ImageLatents":
        """As ever, but a generator that is the source stays in eval mode."""
        super().train(mode)
        if self.source is not None:
            self.source.eval()
        return self

    @torch.no_grad()
    def look_alike(self) -> bool:
        """Whether every z gives the same latent, by all images, or by 64 of a generator and fewer if one differs."""
        first = None
        for latents in self._some_latents(2):
            first = latents[0] if first is None else first
            if not (latents - first).abs().max() < 1e-4:
                return False
        return True

    def extra_repr(self) -> str:
        """Size, geometry and licence, for print."""
        images = "" if self.source is not None else f"images={list(self.images.shape)}, "
        licence = f", licence={self.licence!r}" if self.licence else ""
        return f"{images}z_dim={self.z_dim}, geometry={self.geometry}, jitter={self.jitter:g}{licence}"

    def get_extra_state(self) -> Tensor:
        """Settings and licence as JSON, uint8: loops that average the tensors of a ``state_dict`` find nothing else."""
        state = {"geometry": self.geometry, "jitter": self.jitter, "licence": self.licence}
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take what belongs to the images that are loaded."""
        loaded = json.loads(bytes(state.tolist()))
        self.geometry, self.jitter = tuple(loaded["geometry"]), loaded["jitter"]
        self.licence = loaded["licence"]

    def _of_images(self, z: Tensor) -> Tensor:
        index, rest = self._pick(z)
        latents = self._flatten(self._stored_images(index)) - self.mean_latent
        if self.jitter:
            if z.shape[1] < self.z_dim:
                raise ValueError(f"z has {z.shape[1]} numbers; jitter={self.jitter:g} needs z_dim={self.z_dim} of them")
            latents = latents + self.jitter * torch.cat([rest[:, None], z[:, 1 : self.z_dim]], dim=1)
        return latents

    def _of_source(self, z: Tensor) -> Tensor:
        k = self.source.z_dim
        if z.shape[1] < k:
            raise ValueError(f"z has {z.shape[1]} numbers; the generator that is the source needs {k}")
        images = self.source(z[:, :k])
        return self._flatten(images.to(torch.promote_types(images.dtype, torch.float32))) - self.mean_latent

    @torch.no_grad()
    def _some_latents(self, block: int) -> Iterator[Tensor]:
        """The latents of all images, or of some of the generator on its device, in blocks, before their scaling."""
        if self.source is None:
            every = torch.arange(len(self.images), device=self.images.device)
            yield from (self._flatten(self._stored_images(index)) for index in every.split(1024))
            return
        like = next((buffer for buffer in self.source.buffers() if buffer.is_floating_point()), self.mean_latent)
        z = torch.randn(_MEAN_OF, self.source.z_dim, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
        yield from (self._of_source(rows.to(like)) for rows in z.split(block))

    def _stored_images(self, index: Tensor) -> Tensor:
        return self.images[index].float() / 127.5 - 1

    def _pick(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The image of each z, and what its first number still says, as a Gaussian that is independent of the image."""
        count = len(self.images)
        place = torch.special.ndtr(z[:, 0].double()) * count
        index = place.long().clamp(0, count - 1)
        rest = torch.special.ndtri((place - index).clamp(1e-6, 1 - 1e-6))
        return index, rest.to(z.dtype)

    def _flatten(self, images: Tensor) -> Tensor:
        gray = _shrink(images.mean(1, keepdim=True), [min(STORED_SIDE, 2 * side) for side in self.geometry])
        return F.interpolate(gray, self.geometry, mode="bilinear").flatten(1)[:, : self.z_dim]


def freeze(module: nn.Module) -> nn.Module:
    """Put a module in eval mode and make its parameters buffers, in place: nothing finds them to train them."""
    for part in module.eval().modules():
        for name, parameter in list(part._parameters.items()):
            del part._parameters[name]
            part.register_buffer(name, None if parameter is None else parameter.detach())
    return module


def _geometry(given: Sequence[int] | None, z_dim: int) -> tuple[int, int]:
    if given is None:
        rows = next(rows for rows in range(math.isqrt(z_dim), 0, -1) if z_dim % rows == 0)
        square = math.isqrt(z_dim - 1) + 1
        return (rows, z_dim // rows) if z_dim <= 2 * rows**2 else (square, square)
    if len(given) != 2:
        raise ValueError(f"geometry={given!r}; give rows and columns, such as (16, 32)")
    rows, columns = (whole_number("geometry", side, "[1, inf)") for side in given)
    if rows * columns < z_dim:
        raise ValueError(f"geometry={given!r} has {rows * columns} pixels; a latent of z_dim={z_dim} needs as many")
    return rows, columns


def _stored(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.dtype != torch.uint8 or not images.numel():
        raise ValueError(f"source has shape {list(images.shape)} and {images.dtype}; give images, uint8 [M, C, H, W]")
    shrunk = [_shrink(block.float(), [STORED_SIDE, STORED_SIDE]).round().to(torch.uint8) for block in images.split(256)]
    return torch.cat(shrunk)


def _shrink(images: Tensor, most: Sequence[int]) -> Tensor:
    """Images of at most so many rows and columns, by averaging areas."""
    sides = [min(side, limit) for side, limit in zip(images.shape[2:], most, strict=True)]
    return images if list(images.shape[2:]) == sides else F.adaptive_avg_pool2d(images, sides)
