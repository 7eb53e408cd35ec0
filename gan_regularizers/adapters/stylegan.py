"""StyleGAN2-ADA and StyleGAN3: the regularizers as upstream's augment_pipe, whose p upstream's controller moves.

The patched train.py calls ``options`` and ``configure``; upstream's training loop builds the rest by name.
"""

from typing import Any

import click
import torch
from torch import Tensor, nn

from ..diffaugment import DiffAugment
from ..diffusion_noise import DiffusionNoise, timestep_embedding
from ..regularizer import InputRegularizer
from . import train_options
from .train_options import Host, Regularizers, refuse

ADA_P_MAX = 0.25  # of upstream's own augmentation before the noise, as in the official Diffusion-GAN code

_HOST = Host(noise={"uniform": "new_data", "priority": "stylegan2"})
_EMBEDDING = {"none": 0, "t": 64, "t-raw": 1}  # how many numbers tell D its t

options = train_options.options(_HOST)


def configure(args: Any, desc: str, host: Host = _HOST) -> str:
    """Put what the options ``--reg...`` ask for into upstream's configuration.

    Args:
        args: the keyword arguments of upstream's training_loop, changed in place.
        desc: the name of the run.
        host: the defaults of the repository.

    Returns:
        The name of the run with the regularizers in it.

    Raises:
        click.UsageError: options that make no sense together, or not with the snapshot of ``--resume``.
    """
    regularizers = train_options.resolve(host, args.random_seed)
    if regularizers is None:
        return desc
    snapshot = load_snapshot(args.resume_pkl) if args.get("resume_pkl") else None
    ada = args.augment_kwargs if regularizers.mode.startswith("ada") else None
    args.augment_kwargs = {
        "class_name": path(Pipe),
        "diffaug": regularizers.diffaug,
        "ada": ada,
        "noise": regularizers.noise,
    }
    if regularizers.noise is None:
        args.augment_p = 1.0
        args.pop("ada_target", None)
    else:
        args.update(augment_p=0.0, ada_target=regularizers.target, ada_kimg=regularizers.kimg)
        if snapshot is not None:
            _resume(args, snapshot["augment_pipe"])
    if (condition := _condition(regularizers, snapshot, args.get("resume_pkl"))) != "none":
        args.D_kwargs.update(class_name=path(told_discriminator), base=args.D_kwargs.class_name, told=condition)
    return desc + regularizers.desc


def load_snapshot(path: str) -> dict[str, Any]:
    """The contents of one of upstream's pickles, by upstream's own code."""
    import dnnlib
    import legacy

    with dnnlib.util.open_url(path) as file:
        return legacy.load_network_pkl(file)


def path(item: Any) -> str:
    """The name by which upstream's construct_class_by_name finds a class or function."""
    return f"{item.__module__}.{item.__qualname__}"


class Pipe(nn.Module):
    """Upstream's augment_pipe: upstream's own augmentation or DiffAugment, then noise whose length follows p.

    Args:
        diffaug, noise: settings of DiffAugment and DiffusionNoise, or None.
        ada: settings of upstream's augmentation, built by name; its p is min(p, ``ADA_P_MAX``).
        state: of the noise, to go on from.
    """

    p: Tensor

    def __init__(
        self,
        diffaug: dict[str, Any] | None = None,
        noise: dict[str, Any] | None = None,
        ada: dict[str, Any] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("p", torch.zeros(()))
        self.ada = _construct(ada) if ada is not None else None
        self.regularizer = InputRegularizer(
            DiffAugment(**diffaug) if diffaug is not None else None,
            DiffusionNoise(**noise) if noise is not None else None,
        )
        if state is not None:
            self.regularizer.noise.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
        self._followed: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Regularise images [N, C, H, W]; what D is told of t rides on the result as its attribute ``diffusion_t``."""
        # Upstream writes p in place. Reading it waits for the device, so it is read when it was written only.
        if self.p._version != self._followed:
            self._follow_p()
        if self.ada is not None:
            images = self.ada(images)
        images, t = self.regularizer(images, return_t=True)
        images.diffusion_t = t
        return images

    def _follow_p(self) -> None:
        moved = self._followed is not None  # else it is the start, perhaps of a resumed run, whose list stays
        self.p.clamp_(max=1)  # upstream bounds it from below only
        self._followed = self.p._version
        if self.ada is not None:
            self.ada.p.copy_(self.p.clamp(max=ADA_P_MAX))
        if (noise := self.regularizer.noise) is not None:
            noise.set_p(float(self.p), redraw=moved)
            report(noise)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_followed": None}  # a copy of p counts its versions anew


def report(noise: DiffusionNoise) -> None:
    """Show T in upstream's statistics; to be called on all ranks alike."""
    from torch_utils import training_stats

    training_stats.report0("Progress/augment_T", int(noise.T))


def told_discriminator(base: str, told: str, c_dim: int, **kwargs: Any) -> nn.Module:
    """Upstream's discriminator with room for t beside the label, and a hook that puts it there."""
    D = _construct({"class_name": base, "c_dim": c_dim + _EMBEDDING[told], **kwargs})
    D.register_forward_pre_hook(TellT(told))
    return D


class TellT:
    """A hook of D that appends t, which the pipe left on the images, to the label; images without it count as clean."""

    def __init__(self, told: str) -> None:
        self.told = told

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Replace D's label [N, c_dim] by [N, c_dim + dim]."""
        images, c, *others = args
        t = getattr(images, "diffusion_t", None)
        if t is None:
            t = c.new_zeros(len(c))
        told = timestep_embedding(t, kind="raw") if self.told == "t-raw" else timestep_embedding(t, _EMBEDDING["t"])
        return (images, torch.cat([c, told.to(c.dtype)], dim=1), *others)


def _resume(args: Any, pipe: nn.Module | None) -> None:
    """Go on with p, and with the noise's T and list where its settings are those of the snapshot."""
    noise = pipe.regularizer.noise if isinstance(pipe, Pipe) else None
    if noise is None:
        print(f"{args.resume_pkl} has no state of the noise, which starts at p = 0")
        return
    args.augment_p = float(pipe.p)
    settings = args.augment_kwargs["noise"]
    changed = [name for name, value in settings.items() if getattr(noise, name) != value]
    if changed:
        others = " and ".join(changed)
        print(f"{args.resume_pkl} has another {others}, so of its noise only p = {args.augment_p:g} goes on")
        return
    args.augment_kwargs["state"] = {name: value.tolist() for name, value in noise.state_dict().items()}
    print(f"{args.resume_pkl} goes on with p = {args.augment_p:g}, T = {int(noise.T)}")


def _condition(regularizers: Regularizers, snapshot: dict[str, Any] | None, resume_pkl: str | None) -> str:
    """What D is told of t; a snapshot's D goes on as it was."""
    asked, noisy = regularizers.condition, regularizers.noise is not None
    if snapshot is None:
        return (asked or "t") if noisy else "none"
    widths = {width: told for told, width in _EMBEDDING.items()}
    told = widths.get(snapshot["D"].c_dim - snapshot["G"].c_dim, "none")
    if asked not in (None, told):
        refuse("condition", asked, f"does not fit {resume_pkl}, whose D was trained with --reg-condition={told}")
    if told != "none" and not noisy:
        raise click.UsageError(f"the D of {resume_pkl} is told t, so --reg={regularizers.mode} needs diffusion too")
    if asked is None and told == "none" and noisy:
        print(f"The D of {resume_pkl} was not told t, and is not told it now")
    return told


def _construct(kwargs: dict[str, Any]) -> nn.Module:
    import dnnlib

    return dnnlib.util.construct_class_by_name(**kwargs)
