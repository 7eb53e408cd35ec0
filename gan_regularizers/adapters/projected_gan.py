"""ProjectedGAN: the regularizers inside D, on its input or on its feature maps, and AdaptiveT in its loss."""

from typing import Any

import click
from torch import Tensor, nn

from ..adaptive_t import AdaptiveT
from ..diffaugment import DiffAugment
from ..diffusion_noise import DiffusionNoise
from ..wrapping import wrap
from . import resuming, spider, train_options
from .snapshot_parts import ThroughEach, ThroughFirst, add_hook, construct, full_name, report_T
from .train_options import Host, refuse

ADAPTIVE_INTERVAL = 4  # iterations between moves of p

_HOST = Host(
    "the repository's DiffAugment",
    noise={"uniform": "new_data", "priority": "new_data"},
    features="projected_gan",
    diffaug="projected_gan",
    diffaug_and_noise="projected_gan",
    modes=("none", "diffaug", "diffusion", "diffaug+diffusion"),
    conditions="none",
)

options = train_options.options(_HOST)


def configure(c: Any, desc: str) -> str:
    """Put what the options ``--reg...`` and ``--spider...`` ask for into upstream's configuration.

    Args:
        c: the keyword arguments of upstream's training_loop, changed in place.
        desc: the name of the run.

    Returns:
        The name of the run with the regularizers and what G is fed in it.

    Raises:
        click.UsageError: options that make no sense together, or not with the snapshot of ``--resume``.
    """
    size = c.training_set_kwargs.resolution
    if c.G_kwargs.class_name.startswith("pg_modules.networks_fastgan") and size < 128:
        raise click.UsageError(f"FastGAN's G begins at 128 pixels, these images have {size}; use --cfg=stylegan2")
    regularizers = train_options.resolve(_HOST, c.random_seed)
    snapshot = resuming.load(c)
    resuming.check(c, snapshot)
    desc = spider.configure(c, desc, snapshot)
    if regularizers is None:
        return desc
    if regularizers.condition not in (None, "none"):
        refuse("condition", regularizers.condition, "is not possible: ProjectedGAN's D has no input that t could enter")
    c.D_kwargs.update(
        class_name=full_name(discriminator),
        base=c.D_kwargs.class_name,
        diffaug=regularizers.diffaug,
        noise=regularizers.noise,
        where=regularizers.where,
    )
    if regularizers.noise is not None:
        rounds = c.batch_size // (c.batch_gpu * c.num_gpus)
        c.D_kwargs.controller = {
            "target": regularizers.target,
            "kimg": regularizers.kimg,
            "interval": ADAPTIVE_INTERVAL * rounds,
        }
        c.loss_kwargs.update(class_name=full_name(loss), base=c.loss_kwargs.class_name)
        if snapshot is not None:
            _check_snapshot(c.resume_pkl, snapshot["D"], regularizers.noise)
    return desc + regularizers.desc


def discriminator(
    base: str,
    diffaug: dict[str, Any] | None = None,
    noise: dict[str, Any] | None = None,
    where: str = "pixels",
    controller: dict[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Upstream's discriminator with the regularizers inside, so that its snapshots hold their state.

    Args:
        base: name of upstream's class.
        diffaug: settings of DiffAugment, which takes the place of upstream's own.
        noise: settings of DiffusionNoise.
        where: the noise on ``pixels``, or on the four feature maps before (``first``) or after (``last``) their mixing.
        controller: settings of AdaptiveT.
        kwargs: of upstream's class.
    """
    D = construct({"class_name": base, **kwargs, "diffaug": False})
    augment = DiffAugment(**diffaug) if diffaug is not None else None
    on_pixels = None
    if noise is not None:
        diffuse = DiffusionNoise(**noise)
        D.adaptive_t = AdaptiveT(diffuse, **controller)  # first: so its buffers have one name, wherever the noise goes
        if where == "pixels":
            on_pixels = diffuse
        elif where == "first":
            for i in range(4):
                add_hook(getattr(D.feature_network.scratch, f"layer{i}_ccm")._forward_pre_hooks, ThroughFirst(diffuse))
        else:
            add_hook(D.feature_network._forward_hooks, ThroughEach(diffuse))
    if augment is not None or on_pixels is not None:
        wrap(D, augment, on_pixels, tell="nothing")
    return D


def loss(base: str, D: nn.Module, **kwargs: Any) -> Any:
    """Upstream's loss, which shows D's outputs on reals to AdaptiveT."""
    import dnnlib
    from torch_utils import training_stats

    adaptive_t = D.adaptive_t
    noise = adaptive_t.noise

    class Loss(dnnlib.util.get_obj_by_name(base)):
        def run_D(self, img: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: N802
            logits = super().run_D(img, *args, **kwargs)
            if img.data_ptr() == self.real_img.data_ptr():  # upstream detaches the reals, but does not copy them
                adaptive_t.observe(logits)
            return logits

        def accumulate_gradients(self, phase: str, real_img: Tensor, *args: Any, **kwargs: Any) -> None:
            self.real_img = real_img
            super().accumulate_gradients(phase, real_img, *args, **kwargs)
            if phase in ("Dmain", "Dboth") and adaptive_t.step(len(real_img)):
                training_stats.report0("Progress/augment", float(noise.p))
                report_T(noise)

    return Loss(D=D, **kwargs)


def _check_snapshot(resume_pkl: str, D: nn.Module, noise: dict[str, Any]) -> None:
    """Upstream copies the state from the snapshot's D into the new one, so both chains must have the same bounds."""
    adaptive_t = getattr(D, "adaptive_t", None)
    if adaptive_t is None:
        print(f"{resume_pkl} has no state of the noise, which starts at p = 0")
        return
    for name in ("t_max", "t_min"):
        if noise[name] != (before := getattr(adaptive_t.noise, name)):
            refuse(name, noise[name], f"does not fit {resume_pkl}, whose noise has {before}")
    print(f"{resume_pkl} goes on with p = {float(adaptive_t.p):g}, T = {int(adaptive_t.T)}")
