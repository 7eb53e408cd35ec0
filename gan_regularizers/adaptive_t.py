"""AdaptiveT: the chain's length follows how far the discriminator overfits (Diffusion-GAN, Eq. 12)."""

import math
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .diffusion_noise import DiffusionNoise
from .exact_buffers import ExactBuffers
from .settings import number, whole_number


class StatisticWarning(UserWarning):
    """The sign statistic could not be used, or has driven p to its cap."""


class AdaptiveT(ExactBuffers):
    """Lengthen the chain of a DiffusionNoise while D separates the reals too well, shorten it otherwise:

        r_d = E[ sign(D(real) - midpoint) ],    p <- p + sign(r_d - target) * images / (1000 kimg),
        T = t_min + round(p (t_max - t_min))

    once every ``interval`` batches, where images are those shown since the last move (Eq. 12 of the paper, in the
    form of the official code, where p is what moves). The list of steps is drawn anew each time, also where T stays
    (Algorithm 1)::

        adapt.observe(real_logits)      # in D's step, for every real batch; never waits for the device
        adapt.step(len(real))           # once per iteration; reads the device once per interval

    With ``torch.distributed`` initialised, both the signs and the images are summed over ranks, so every rank moves to
    one T. Every rank must call ``step`` equally often, with the number of reals that it showed itself.

    ``observe`` can be captured in a CUDA graph, after a call outside of one that moves the statistic to the device;
    ``step`` stays outside, and the graph's next replay takes the T and the list that it left.

    ``state_dict()`` holds p, T and the list of steps, which are the noise module's buffers (so the state of a wrapped
    discriminator holds them too), and what was observed since the last move, in this rank's extra state.

    Args:
        noise: the module to drive; it is moved to ``initial_p`` unless a state was loaded into it or it was moved
            before.
        target: r_d to hold, in (-1, 1); 0.6 suits most data sets, higher means less noise.
        interval: batches between moves.
        kimg: thousand images that p takes from 0 to 1; 100 in Diffusion-GAN, 500 in StyleGAN2-ADA.
        midpoint: D's output between real and fake: 0 for logits, 0.5 for probabilities and for LSGAN with targets
            0 and 1.
        p_max: cap of p, in [0, 1]; 0.25 is what the official code allows beside ADA.
        initial_p: p at the start, in [0, p_max].

    Raises:
        TypeError: noise is no DiffusionNoise, or a setting is no number.
        ValueError: a setting that is NaN or outside its range.
    """

    r_d: Tensor

    def __init__(
        self,
        noise: DiffusionNoise,
        *,
        target: float = 0.6,
        interval: int = 4,
        kimg: float = 100.0,
        midpoint: float = 0.0,
        p_max: float = 1.0,
        initial_p: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(noise, DiffusionNoise):
            raise TypeError(f"noise is a {type(noise).__name__}; AdaptiveT drives a DiffusionNoise")
        self.noise = noise
        self.target = number("target", target, "(-1, 1)")
        self.interval = whole_number("interval", interval, "[1, inf)")
        self.kimg = number("kimg", kimg, "(0, inf)")
        self.midpoint = number("midpoint", midpoint, "(-inf, inf)")
        self.p_max = number("p_max", p_max, "[0, 1]")
        initial_p = number("initial_p", initial_p, f"[0, {self.p_max}]")
        self.register_buffer("r_d", torch.full((), math.nan))
        # Signs, finite outputs and other outputs since the last move: what ranks do not share, so no buffer.
        self._sums = torch.zeros(3, dtype=torch.int64)
        self._restart()
        if int(noise.redraws) == 0 and float(noise.p) == 1.0:
            noise.set_p(initial_p)

    @property
    def p(self) -> Tensor:
        """The strength in [0, p_max], a float32 scalar buffer of the noise module."""
        return self.noise.p

    @property
    def T(self) -> Tensor:  # noqa: N802
        """The chain's length in t_min..t_max, an int64 scalar buffer of the noise module."""
        return self.noise.T

    @torch.no_grad()
    def observe(self, real_logits: Tensor) -> None:
        """Add D's outputs on diffused reals, float of any shape, to the statistic; they are not kept.

        Raises:
            TypeError: real_logits is no floating-point tensor.
        """
        if not isinstance(real_logits, Tensor) or not real_logits.is_floating_point():
            kind = real_logits.dtype if isinstance(real_logits, Tensor) else type(real_logits).__name__
            raise TypeError(f"real_logits is {kind}; pass D's outputs on reals as a floating-point tensor")
        finite = real_logits.isfinite()
        signs = torch.sign(real_logits - self.midpoint).masked_fill(~finite, 0).long()
        if self._sums.device != real_logits.device:
            with torch.inference_mode(False):  # what is made in inference mode cannot be changed outside it
                self._sums = self._sums.to(real_logits.device)
        # In place, so that a CUDA graph adds to it at every replay. The sums are integers, so the order of summation
        # cannot matter.
        self._sums += torch.stack([signs.sum(), finite.sum(), (~finite).sum()])

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
            StatisticWarning: nothing was observed, or an output was NaN or infinite (T stays), or p has reached its
                cap while every real is on D's real side.
        """
        images = whole_number("batch_size", batch_size, "[1, inf)")
        self._batches += 1
        self._images += images
        if self._batches < self.interval:
            return False
        sums = torch.cat([self._sums, self._sums.new_tensor([self._images])]).to(self.T.device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        signs, observed, broken, images = sums.tolist()
        self._restart()
        if broken:
            _warn("D's outputs on reals hold NaN or infinite values; T does not move")
        elif not observed:
            _warn("nothing was observed since the last move; T does not move. Call observe(real_logits) in D's step")
        else:
            self.r_d.fill_(signs / observed)
            if self._move(signs / observed, images) and signs == observed:
                _warn(
                    f"p has reached its cap of {self.p_max:g} while D puts every real on the real side of "
                    f"midpoint={self.midpoint:g}; if D returns probabilities, pass midpoint=0.5"
                )
        return True

    def get_extra_state(self) -> dict[str, Any]:
        return {"sums": self._sums.tolist(), "batches": self._batches, "images": self._images}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        sums = torch.tensor(state["sums"], dtype=torch.int64).view(3)
        self._sums = sums if self._sums.is_meta else self._sums.copy_(sums)
        self._batches = state["batches"]
        self._images = state["images"]

    def extra_repr(self) -> str:
        return f"target={self.target}, interval={self.interval}, kimg={self.kimg}, midpoint={self.midpoint}"

    def _move(self, r_d: float, images: int) -> bool:
        """Move p, and return whether this brought it to its cap."""
        direction = (r_d > self.target) - (r_d < self.target)
        before = float(self.p)
        p = min(max(before + direction * images / (1000.0 * self.kimg), 0.0), self.p_max)
        self.noise.set_p(p, redraw=True)
        # The buffer is float32, so the cap itself may lie a little above or below what it holds.
        return p == self.p_max and float(self.p) > before

    def _restart(self) -> None:
        self._sums.zero_()
        self._batches = 0
        self._images = 0


def _warn(message: str) -> None:
    warnings.warn(f"AdaptiveT: {message}", StatisticWarning, stacklevel=4)
