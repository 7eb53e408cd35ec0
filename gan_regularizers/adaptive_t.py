"""AdaptiveT: the chain's length follows how far the discriminator overfits (Diffusion-GAN, Eq. 12)."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .arguments import number, whole_number
from .diffusion_noise import DiffusionNoise
from .state.exact_buffers import ExactBuffers
from .wrapping import regularizer_of

# What is counted since the last move: signs, finite outputs, others, those inside (0, 1), and these two.
_BATCHES, _IMAGES = 4, 5


class StatisticWarning(UserWarning):
    """The sign statistic could not be used, is likely to be another than meant, or has driven p to its cap."""


class AdaptiveT(ExactBuffers):
    """Lengthen the chain of a DiffusionNoise while D separates the reals too well, shorten it otherwise::

        r_d = E[ sign(D(real) - midpoint) ],    p <- p + sign(r_d - target) * images / (1000 kimg),
        T = t_min + round(p (t_max - t_min))

    once every ``interval`` batches, where images are those shown since the last move (Eq. 12 of Diffusion-GAN, arXiv
    2206.02262, in the form of the official code, where p is what moves). The list of steps is drawn anew each time,
    also where T stays (Algorithm 1)::

        adapt = AdaptiveT(D)            # D is wrapped; or AdaptiveT(noise)
        adapt.observe(real_logits)      # in D's step, for every real batch; never waits for the device
        adapt.step(len(real))           # once per iteration; reads the device once per interval

    With ``torch.distributed`` initialised, both the signs and the images are summed over ranks, so every rank moves to
    one T. Every rank must call ``step`` equally often, with the number of reals that it showed itself.

    ``observe`` can be captured in a CUDA graph, after a call outside of one that moves the statistic to the device;
    ``step`` stays outside, and the graph's next replay takes the T and the list that it left.

    ``state_dict()`` holds all that adapts, in tensors: p and the number of times that the list was drawn, from which T
    and the list follow; r_d; and what this rank observed since the last move, as extra state, since ranks do not share
    it. It may be loaded, copied in place, averaged and moved.

    Args:
        noise: the DiffusionNoise to drive, or a wrapped discriminator that has one. It is moved to ``initial_p`` unless
            a state was loaded into it or it was moved before.
        target: r_d to hold, in (-1, 1); 0.6 suits most data sets, higher means less noise.
        interval: batches between moves.
        kimg: thousand images that p takes from 0 to 1; 100 in Diffusion-GAN, 500 in StyleGAN2-ADA.
        midpoint: D's output between real and fake: 0 for logits, 0.5 for probabilities and for LSGAN with targets
            0 and 1.
        real_sign: 1 where D is trained to give reals the larger values, -1 where they get the smaller ones.
        p_max: cap of p, in [0, 1].
        initial_p: p at the start, in [0, p_max].

    Raises:
        TypeError: noise is neither, or a setting is no number.
        ValueError: D is not wrapped, or without noise; a setting is NaN or outside its range.
    """

    r_d: Tensor  #: float32 scalar, the statistic at the last move; NaN before it

    def __init__(
        self,
        noise: DiffusionNoise | nn.Module,
        *,
        target: float = 0.6,
        interval: int = 4,
        kimg: float = 100.0,
        midpoint: float = 0.0,
        real_sign: int = 1,
        p_max: float = 1.0,
        initial_p: float = 0.0,
    ) -> None:
        super().__init__()
        self.noise = noise = _noise_of(noise)
        self.target = number("target", target, "(-1, 1)")
        self.interval = whole_number("interval", interval, "[1, inf)")
        self.kimg = number("kimg", kimg, "(0, inf)")
        self.midpoint = number("midpoint", midpoint, "(-inf, inf)")
        if real_sign not in (1, -1):
            raise ValueError(f"real_sign={real_sign!r} is neither 1 (reals get the larger values) nor -1")
        self.real_sign = real_sign
        self.p_max = number("p_max", p_max, "[0, 1]")
        initial_p = number("initial_p", initial_p, f"[0, {self.p_max}]")
        self._r_d = math.nan
        with torch.inference_mode(False):  # what is made in inference mode cannot be changed outside it
            self._counts = torch.zeros(6, dtype=torch.int64, device="cpu")
            self.register_buffer("r_d", torch.full((), math.nan, dtype=torch.float32, device="cpu"))
        self._batches = 0  # as counted, known without a wait for the device
        self._seen = self._counts._version
        self._checked = False  # the first interval
        noise.drawn_from = False
        if not noise.moved:
            noise.set_p(initial_p)

    @property
    def p(self) -> Tensor:
        """The strength in [0, p_max], a float32 scalar buffer of the noise module."""
        return self.noise.p

    @property
    def T(self) -> int:  # noqa: N802
        """The chain's length, in t_min..t_max."""
        return self.noise.T

    @torch.no_grad()
    def observe(self, real_logits: Any, fake_logits: Any = None) -> None:
        """Add D's outputs on regularised reals to the statistic; they are not kept.

        Args:
            real_logits: a floating-point tensor of any shape, or lists, tuples and dictionaries of them, also nested,
                as D returned them; every number counts alike. Pick the logits out of what else D returns.
            fake_logits: what D returned for the fakes of the same step, of the same shapes, where the loss only sees
                differences (WGAN, relativistic): then the statistic is that of D(real) - D(fake), whose midpoint is 0.

        Raises:
            TypeError: there is something else than floating-point tensors.
            ValueError: reals and fakes differ in shape.
        """
        values = list(_outputs("real_logits", real_logits))
        if fake_logits is not None:
            fakes = list(_outputs("fake_logits", fake_logits))
            shapes = [[list(output.shape) for output in outputs] for outputs in (values, fakes)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"real_logits have shapes {shapes[0]} and fake_logits {shapes[1]}; their difference needs one shape"
                )
            values = [real - fake for real, fake in zip(values, fakes, strict=True)]
        for output in values:
            self._count(output, difference=fake_logits is not None)

    @torch.no_grad()
    def step(self, batch_size: int) -> bool:
        """Count a batch; at the end of an interval move p, T and the list of steps.

        Args:
            batch_size: reals that this rank showed D in this iteration.

        Returns:
            Whether an interval ended.

        Raises:
            TypeError: batch_size is no number.
            ValueError: it is no whole number >= 1.

        Warns:
            StatisticWarning: nothing was observed, or an output was NaN or infinite (T stays), or p has reached its cap
                while every real is on D's real side. In the first interval, once: all outputs lie between 0 and 1 and
                midpoint is 0; the noise did not run.
        """
        images = whole_number("batch_size", batch_size, "[1, inf)")
        if self._counts.is_cpu or self._counts._version != self._seen:  # a state may have been copied into it
            self._batches = int(self._counts[_BATCHES])
        self._counts[_BATCHES] += 1
        self._counts[_IMAGES] += images
        self._seen = self._counts._version
        self._batches += 1
        if self._batches < self.interval:
            return False
        counts = self._counts.to(_reduced_on(self._counts.device), copy=True)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        signs, finite, broken, inside, _, images = counts.tolist()
        self._restart()
        if not self._checked:
            self._checked = True
            for message in self._doubts(finite, inside):
                _warn(message)
        if broken:
            _warn("D's outputs on reals hold NaN or infinite values; T does not move")
        elif not finite:
            _warn("nothing was observed since the last move; T does not move. Call observe(real_logits) in D's step")
        else:
            self._r_d = signs / finite
            self.reset_parameters()
            if self._move(signs / finite, images) and signs == finite:
                _warn(
                    f"p has reached its cap of {self.p_max:g} while D puts every real on the real side of "
                    f"midpoint={self.midpoint:g}; if D returns probabilities, pass midpoint=0.5"
                )
        return True

    def reset_parameters(self) -> None:
        """Write r_d again, for memory that lost it: torch's deferred initialisation calls this."""
        if not self.r_d.is_meta:
            with torch.no_grad():
                self.r_d.fill_(self._r_d)

    def _take_over(self) -> None:
        if not self.r_d.is_meta:
            self._r_d = float(self.r_d)

    def get_extra_state(self) -> Tensor:
        """What was counted since the last move, int64 [6]; the tensor itself, so that it may be copied into."""
        return self._counts

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what was counted.

        Raises:
            TypeError: state is no tensor.
        """
        if type(state).__name__ == "_EXTRA_STATE":  # what distributed checkpoints pass for one that is not there
            return
        if not isinstance(state, Tensor):
            raise TypeError(f"the extra state of AdaptiveT is a {type(state).__name__}; a tensor int64 [6] is needed")
        if self._counts.is_meta:
            self._counts = torch.zeros_like(state, device="cpu")
        self._counts.copy_(state)
        self._batches = int(state[_BATCHES])
        self._seen = self._counts._version

    def extra_repr(self) -> str:
        settings = f"target={self.target}, interval={self.interval}, kimg={self.kimg}, midpoint={self.midpoint}"
        return settings if self.real_sign == 1 else f"{settings}, real_sign={self.real_sign}"

    def _count(self, output: Tensor, difference: bool) -> None:
        finite = output.isfinite()
        signs = torch.sign(output if difference else output - self.midpoint).masked_fill(~finite, 0).long()
        inside = (output > 0) & (output < 1) & (not difference)
        counted = torch.stack([self.real_sign * signs.sum(), finite.sum(), (~finite).sum(), inside.sum()])
        touched = self._counts._version != self._seen
        if self._counts.device != output.device:
            with torch.inference_mode(False):
                self._counts = self._counts.to(output.device)
        # In place, so that a CUDA graph adds to it at every replay. The sums are integers, so the order of summation
        # cannot matter.
        self._counts[: len(counted)] += counted
        if not touched:
            self._seen = self._counts._version

    def _doubts(self, finite: int, inside: int) -> Iterator[str]:
        """What in the first interval looks like a mistake in D's use."""
        if not self.noise.drawn_from:
            yield (
                "the noise did not run since the last move. D is trained through D.forward or a method of its own and "
                "not by D(x); or D is a copy, which has a noise of its own: build AdaptiveT(D) after it; or the noise "
                "is switched off"
            )
        if finite and inside == finite and self.midpoint == 0.0:
            yield "D's outputs on reals all lie between 0 and 1; if they are probabilities, pass midpoint=0.5"

    def _move(self, r_d: float, images: int) -> bool:
        """Move p, and return whether this brought it to its cap."""
        direction = (r_d > self.target) - (r_d < self.target)
        before = self.noise.strength
        p = min(max(before + direction * images / (1000.0 * self.kimg), 0.0), self.p_max)
        self.noise.set_p(p, redraw=True)
        # The strength is float32, so the cap itself may lie a little above or below it.
        return p == self.p_max and self.noise.strength > before

    def _restart(self) -> None:
        self._counts.zero_()
        self._batches = 0
        self._seen = self._counts._version


def _noise_of(noise: DiffusionNoise | nn.Module) -> DiffusionNoise:
    if isinstance(noise, DiffusionNoise):
        return noise
    if not isinstance(noise, nn.Module):
        raise TypeError(
            f"noise is a {type(noise).__name__}; AdaptiveT drives a DiffusionNoise, or that of a wrapped discriminator"
        )
    found = regularizer_of(noise).noise
    if found is None:
        raise ValueError("D is wrapped without a DiffusionNoise, so there is no T to adapt")
    return found


def _outputs(name: str, value: Any) -> Iterator[Tensor]:
    """The tensors in what D returned, as plain ones."""
    if isinstance(value, Tensor) and value.is_floating_point():
        local = (value.to_local() if hasattr(value, "to_local") else value).detach()
        yield local if type(local) is Tensor else local.as_subclass(Tensor)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _outputs(f"{name}[{key!r}]", part)
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from _outputs(f"{name}[{i}]", part)
    else:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} is {kind}; pass the logits that D returned, a floating-point tensor or lists of them")


def _reduced_on(device: torch.device) -> torch.device:
    """Where ranks can sum: a backend of GPUs takes nothing else."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "nccl" and device.type != "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _warn(message: str) -> None:
    warnings.warn(f"AdaptiveT: {message}", StatisticWarning, stacklevel=4)
