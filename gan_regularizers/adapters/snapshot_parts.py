"""What the snapshots of a patched repository hold of ours.

Pickles name these classes by module and name, so both stay as they are. Nothing here needs more than torch and the
repository's own torch_utils and dnnlib.
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..diffaugment import DiffAugment
from ..diffusion_noise import DiffusionNoise, timestep_embedding
from ..regularizer import InputRegularizer

ADA_P_MAX = 0.25  # of upstream's own augmentation before the noise, as in the official Diffusion-GAN code
TOLD = {"none": 0, "t": 64, "t-raw": 1}  # what D is told of t, and in how many numbers


class Pipe(nn.Module):
    """Upstream's augment_pipe: upstream's own augmentation or DiffAugment, then noise whose length follows p.

    Args:
        diffaug: settings of DiffAugment, or None.
        noise: settings of DiffusionNoise, or None.
        ada: settings of upstream's own augmentation, built by name; its p is min(p, ``ADA_P_MAX``).
        state: of the noise, to go on from.
    """

    p: Tensor  # float32 scalar, which upstream's controller writes

    def __init__(
        self,
        diffaug: dict[str, Any] | None = None,
        noise: dict[str, Any] | None = None,
        ada: dict[str, Any] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("p", torch.zeros(()))
        self.ada = construct(ada) if ada is not None else None
        self.regularizer = InputRegularizer(
            DiffAugment(**diffaug) if diffaug is not None else None,
            DiffusionNoise(**noise) if noise is not None else None,
        )
        if state is not None:
            self.regularizer.noise.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
        self._followed: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Regularise images [N, C, H, W]; the steps t ride on the result as its attribute ``diffusion_t``."""
        # Upstream writes p in place. Reading it waits for the device, so it is read only after it was written.
        if self.p._version != self._followed:
            self._follow_p()
        if self.ada is not None:
            images = self.ada(images)
        images, t = self.regularizer(images, return_t=True)
        images.diffusion_t = t
        return images

    def _follow_p(self) -> None:
        moved = self._followed is not None  # else it is the start, perhaps of a resumed run, whose list stays
        noise = self.regularizer.noise
        if noise is not None:
            p = float(self.p)
            if math.isnan(p):
                warnings.warn("the sign statistic of D's outputs on reals is NaN; p stays as it was", stacklevel=3)
                p = float(noise.p)
            p = min(max(p, 0.0), 1.0)  # upstream bounds it from below at most
            self.p.fill_(p)
            noise.set_p(p, redraw=moved)
            report_T(noise)
        if self.ada is not None:
            self.ada.p.copy_(self.p.clamp(max=ADA_P_MAX))
        self._followed = self.p._version

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_followed": None}  # a copy of p counts its versions anew


class Diffusion(Pipe):
    """A Pipe as Diffusion-GAN's loop and loss use theirs: p is set as a number, and t comes beside the images."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "p":
            self.p.fill_(float(value))
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Regularise images [N, C, H, W], and return them with t, int64 [N, 1]."""
        images = super().forward(images)
        return images, images.diffusion_t.view(-1, 1)

    def update_T(self) -> None:  # noqa: N802
        """Follow p, which the loop has moved."""
        if self.p._version != self._followed:
            self._follow_p()

    @property
    def num_timesteps(self) -> int:
        """The length of the chain; 0 without noise."""
        noise = self.regularizer.noise
        return noise.T if noise is not None else 0


class TellT:
    """A pre-hook of D that appends t, which Pipe left on the images, to the label; without it images count as clean."""

    def __init__(self, told: str) -> None:
        self.told = told

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Replace the label [N, c_dim], or None, by [N, c_dim + dim]."""
        given = {**dict(zip(("img", "c"), args, strict=False)), **kwargs}
        images, c = given.pop("img"), given.pop("c")
        t = getattr(images, "diffusion_t", None)
        t = images.new_zeros(len(images), dtype=torch.int64) if t is None else t
        if self.told == "t-raw":
            told = timestep_embedding(t, kind="raw")
        else:  # of length 1, like the label
            told = timestep_embedding(t, TOLD["t"]) / math.sqrt(TOLD["t"] / 2)
        return (images, told if c is None else torch.cat([c, told.to(c.dtype)], dim=1), *args[2:]), given


class ThroughFirst:
    """A pre-hook that sends the first argument of a module through another module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments, the first one changed."""
        return (self.module(args[0]), *args[1:])


class ThroughEach:
    """A hook that sends each tensor of the dictionary that a module returns through another module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, _: nn.Module, __: Any, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the dictionary, each tensor changed."""
        return {name: self.module(output) for name, output in outputs.items()}


class NoDiffusion(nn.Module):
    """Stands where Diffusion-ProjectedGAN's D has its own diffusion, and shows its loop p and T of the noise.

    The loop moves p by a controller of its own, which is not listened to.
    """

    def __init__(self, noise: DiffusionNoise | None) -> None:
        super().__init__()
        self.__dict__["noise"] = noise  # it is a part of D elsewhere

    @property
    def p(self) -> float:
        """The strength of the noise, which is not moved here; 0 where there is none."""
        return self.noise.strength if self.noise is not None else 0.0

    @p.setter
    def p(self, _: float) -> None:
        pass

    @property
    def num_timesteps(self) -> int:
        """The length of its chain; 0 where there is none."""
        return self.noise.T if self.noise is not None else 0

    def update_T(self) -> None:  # noqa: N802
        """Follow p, which did not move."""

    def forward(self, x: Tensor, noise_std: float = 0.0) -> Tensor:  # noqa: ARG002
        """Return x."""
        return x


class ThroughLatents:
    """A pre-hook of a mapping network that sends z through the part of it which is called latents."""

    def __call__(
        self, mapping: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        """Replace z, which upstream also gives by its name."""
        if args:
            return (mapping.latents(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "z": mapping.latents(kwargs["z"])}


class FrozenGenerator(nn.Module):
    """An unconditional G of a snapshot as a source of ImageLatents: z [N, z_dim] -> images, the same for the same z."""

    def __init__(self, G: nn.Module) -> None:
        super().__init__()
        self.G = G
        self.z_dim = G.z_dim
        for part in G.modules():
            if type(part).__name__ == "NoiseInjection":  # FastGAN's, which knows no constant noise
                add_hook(part._forward_hooks, WithoutNoise())

    def forward(self, z: Tensor) -> Tensor:
        """Render z [N, z_dim] as images [N, C, H, W] in about [-1, 1]."""
        return self.G(z, z.new_zeros(len(z), 0), noise_mode="const", force_fp32=z.device.type != "cuda")


class WithoutNoise:
    """A hook of a module that adds noise, which gives back what came in."""

    def __call__(self, _: nn.Module, args: tuple[Any, ...], __: Tensor) -> Tensor:
        """Return the input."""
        return args[0]


def add_hook(hooks: dict[Any, Any], hook: Any) -> None:
    """Put a hook that is pickled into one of a module's dictionaries of hooks.

    ``register_forward_hook`` would file it under a number, which the process that loads the pickle gives out again.
    """
    hooks["gan_regularizers.adapters"] = hook


def full_name(item: Any) -> str:
    """The name by which ``construct`` finds a class or function."""
    return f"{item.__module__}.{item.__qualname__}"


def construct(kwargs: dict[str, Any]) -> Any:
    """Upstream's construct_class_by_name."""
    import dnnlib

    return dnnlib.util.construct_class_by_name(**kwargs)


def report_T(noise: DiffusionNoise) -> None:  # noqa: N802
    """Show T in upstream's statistics; to be called on all ranks alike."""
    from torch_utils import training_stats

    training_stats.report0("Progress/augment_T", int(noise.T))
