"""What the adapters share that put the regularizers inside D: AdaptiveT in the loss, and snapshots of such a D."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import click
from torch import Tensor, nn

from .snapshot_parts import full_name, report_T
from .train_options import Regularizers, accepted_arguments, refuse, require

ADAPTIVE_INTERVAL = 4  # iterations between moves of p

_SIGNS = "Loss/signs/real"  # what upstream's own ADA controller collects
_MAIN_PHASES = ("D", "Dmain", "Dboth")  # one of them comes once in an iteration, in as many rounds as gradients take


def put_into_d(
    c: Any, regularizers: Regularizers, snapshot: dict[str, Any] | None, discriminator: Callable, **settings: Any
) -> None:
    """Let the training loop build D by an adapter's discriminator, and the loss drive its noise.

    Args:
        c: the keyword arguments of upstream's training_loop, changed in place.
        regularizers: what was asked for.
        snapshot: the contents of that of ``--resume``.
        discriminator: takes upstream's class as ``base``, its arguments, ``diffaug``, ``noise`` and ``controller``.
        settings: further arguments of the discriminator.

    Raises:
        click.UsageError: the loop takes no D or loss, the loss never reports what AdaptiveT listens to, or the
            snapshot's noise has other bounds.
    """
    require("D_kwargs", "loss_kwargs")
    parts = {"diffaug": regularizers.diffaug, "noise": regularizers.noise}
    c["D_kwargs"].update(class_name=full_name(discriminator), base=c["D_kwargs"]["class_name"], **parts, **settings)
    if regularizers.noise is not None:
        c["D_kwargs"]["controller"] = _controller(c, regularizers)
        _adapt_in_loss(c)
        if snapshot is not None:
            _check_snapshot(c["resume_pkl"], snapshot["D"], regularizers.noise)


def _controller(c: Any, regularizers: Regularizers) -> dict[str, Any]:
    batch_gpu = c["d_batch_gpu"] if "d_batch_gpu" in c else c["batch_gpu"]
    rounds = c["batch_size"] // (batch_gpu * c["num_gpus"])
    return {"target": regularizers.target, "kimg": regularizers.kimg, "interval": ADAPTIVE_INTERVAL * rounds}


def _adapt_in_loss(c: Any) -> None:
    """Let the loss drive D's AdaptiveT, and show p in upstream's statistics.

    A loop that could have an augmentation of its own says at every tick that the p of none is 0; there p has another
    name.
    """
    import dnnlib

    name = c["loss_kwargs"]["class_name"]
    if not any(_SIGNS in inspect.getsource(part) for part in dnnlib.util.get_obj_by_name(name).__mro__[:-1]):
        raise click.UsageError(f"{name} reports no {_SIGNS}, by which the noise adapts; use --reg=diffaug")
    p_name = "Progress/augment_p" if "augment_kwargs" in accepted_arguments() else "Progress/augment"
    c["loss_kwargs"].update(class_name=full_name(loss), base=name, p_name=p_name)


def loss(base: str, D: nn.Module, p_name: str, **kwargs: Any) -> Any:
    """Upstream's loss, which shows D's AdaptiveT the signs that it reports for reals."""
    import dnnlib
    from torch_utils import training_stats

    adaptive_t = getattr(D, "module", D).adaptive_t  # D may be parallel

    class Loss(dnnlib.util.get_obj_by_name(base)):
        def accumulate_gradients(self, phase: str, real_img: Tensor, *args: Any, **kwargs: Any) -> None:
            with _heard(training_stats, adaptive_t.observe):
                super().accumulate_gradients(phase, real_img, *args, **kwargs)
            if phase in _MAIN_PHASES and adaptive_t.step(len(real_img)):
                training_stats.report0(p_name, float(adaptive_t.p))
                report_T(adaptive_t.noise)

    return Loss(D=D, **kwargs)


@contextlib.contextmanager
def _heard(training_stats: Any, observe: Callable[[Tensor], None]) -> Iterator[None]:
    """Let observe have the signs of D's outputs on reals that are reported in the ``with`` block.

    A relativistic loss reports those of the differences to the outputs on fakes.
    """
    report = training_stats.report

    def report_and_observe(name: str, value: Any) -> Any:
        if name == _SIGNS:
            observe(value)
        return report(name, value)

    training_stats.report = report_and_observe
    try:
        yield
    finally:
        training_stats.report = report


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
