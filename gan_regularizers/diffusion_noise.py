"""The forward diffusion of Diffusion-GAN (Wang et al., arXiv 2206.02262) as noise on the discriminator's input."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .arguments import choice, number, whole_number
from .ops import (
    Columns,
    Levels,
    Steps,
    TransformParams,
    check_floating,
    draw,
    drawn_transform,
    draws_itself,
    input_transform,
    memory_format,
    random_words,
    runs_reference,
)
from .picture import Picture
from .state.chain import Chain, Chains, lasting
from .state.exact_buffers import ExactBuffers
from .state.normals import Normals

T_LIST_SIZE = 64
_STATE = {"p": torch.float32, "redraws": torch.int64}
_MOST_ADAPTIVE_ENTRIES = 48  # of the 64 entries, in the official ProjectedGAN code

# The settings of the paper's tables and of its advice for a new data set; the controller's target is AdaptiveT's.
# low_dimensional is none of the paper's but of docs/gaussians25.md: a chain that hardly shrinks the signal, for data of
# standard deviation 1; its target was 0.
PRESETS: dict[str, dict[str, Any]] = {
    "new_data": {"t_max": 500, "distribution": "uniform"},
    "stylegan2": {"t_max": 1000, "distribution": "priority"},
    "stylegan2_ffhq": {"t_max": 500, "distribution": "uniform"},
    "insgen": {"t_max": 500, "t_min": 5, "distribution": "uniform"},
    "projected_gan": {
        "t_max": 500,
        "t_min": 5,
        "noise_std": 0.5,
        "beta_end": 1e-2,
        "distribution": "priority",
        "clean_share": "adaptive",
        "per_channel": True,
    },
    "low_dimensional": {
        "t_max": 500,
        "noise_std": 0.8,
        "schedule": "constant",
        "beta_end": 1e-4,
        "distribution": "uniform",
        "clean_share": 0.0,
    },
}


class NoiseParams(NamedTuple):
    """One draw of DiffusionNoise; all tensors but the normals have shape [N], or [N, C] with ``per_channel``."""

    t: Tensor | None  #: int64, None where alpha_bar was given
    gain: Tensor  #: float32, sqrt(alpha_bar_t)
    noise_std: Tensor  #: float32, sqrt(1 - alpha_bar_t) * sigma
    seed: Tensor | None  #: int64, the key of the normals
    normals: Tensor | None = None  #: float of x's shape, in place of a seed where the reference backend is in force

    def check(self, x: Tensor, per_channel: bool = False) -> None:
        """Raise ValueError unless this draw is for a batch of x's samples (and channels); normals are for x's shape."""
        for name, value in zip(NoiseParams._fields, self, strict=True):
            shape = x.shape if name == "normals" else x.shape[: 1 + per_channel]
            if value is not None and value.shape != shape:
                raise ValueError(
                    f"params.{name} has shape {list(value.shape)}; this input needs {list(shape)}: params are drawn by "
                    f"sample(x) for one size of batch"
                )


class DiffusionNoise(ExactBuffers):
    """Diffuse each sample to a random step t of a chain of length T::

        y = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) noise_std eps,    alpha_bar_t = prod_{s <= t} (1 - beta_s)

    with t drawn from a list of 64 entries, a share of them 0 (a clean sample) and the rest drawn from ``distribution``
    over 1..T, so y follows a Gaussian mixture over t (Diffusion-GAN, arXiv 2206.02262, Eqs. 1 to 3 and 11). T follows
    the strength p in [0, 1]: ``T = t_min + round(p (t_max - t_min))``. p starts at 1; ``AdaptiveT`` moves it, ``set_p``
    sets it.

    It acts in ``train()`` and in ``eval()``; set ``enabled = False`` to switch it off. Its state is p and the number of
    times that the list was drawn; T, the list and the tables of the schedule follow from these two and the settings,
    and can be of no other moment. They lie on whatever device x lies on: a forward never waits for it.

    Args:
        t_max: the longest chain; 0 makes the module return its input itself.
        t_min: the shortest chain; by default 10 in official parity and 5 in the paper's, or t_max if that is less.
        noise_std: sigma, in units of the input (images in [-1, 1]).
        schedule: of beta_s over s = 1..T: ``linear``, ``quadratic``, ``sigmoid`` (between beta_start and beta_end),
            ``constant`` (beta_end), ``cosine`` (Nichol and Dhariwal, 2021), ``jsd`` (1/T, 1/(T-1), ..., 1).
        beta_start, beta_end: in (0, 1).
        distribution: of t over 1..T: ``uniform``, or ``priority``, with weights growing with t.
        clean_share: share of the list that is 0, in [0, 1]; ``"adaptive"``: 1 - min(p, 0.75), as the official
            ProjectedGAN code has it.
        parity: ``official``: the schedule is stretched over the current T and the priority weights are t - 1, as in
            the authors' code (so t = 1 is drawn only at T = 1); ``paper``: chains are prefixes of one schedule over
            t_max and the weights are t.
        per_channel: draw one t per sample and channel, for feature maps [N, C, ...].
        seed: of the list; ranks with one seed draw one list.
        value_range: (low, high) of the images. noise_std is in units of images in [-1, 1], and an image is scaled
            towards the middle of the range, so (0, 1) does the same to the same picture.
        channels: the picture within the channels of images [N, C, ...], as a slice or range; the other channels stay
            as they are. By default all.

    Raises:
        TypeError: a setting is no number where one is needed.
        ValueError: a setting outside its range, or an unknown name; the message lists the known ones.
    """

    words = 2  # random words that a draw takes per sample: one chooses the entry of the list, one is the seed

    p: Tensor  #: float32 scalar, the strength
    redraws: Tensor  #: int64 scalar, how often the list was drawn anew

    def __init__(
        self,
        t_max: int = 500,
        *,
        t_min: int | None = None,
        noise_std: float = 0.05,
        schedule: str = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 2e-2,
        distribution: str = "uniform",
        clean_share: float | str = 0.5,
        parity: str = "official",
        per_channel: bool = False,
        seed: int = 0,
        value_range: tuple[float, float] = (-1.0, 1.0),
        channels: slice | range | None = None,
    ) -> None:
        super().__init__()
        self.parity = choice("parity", parity, ("official", "paper"))
        self.t_max = whole_number("t_max", t_max, "[0, inf)")
        shortest = 10 if parity == "official" else 5
        self.t_min = whole_number("t_min", min(shortest, self.t_max) if t_min is None else t_min, f"[0, {self.t_max}]")
        self.noise_std = number("noise_std", noise_std, "[0, inf)")
        self.schedule = choice("schedule", schedule, SCHEDULES)
        self.beta_start = number("beta_start", beta_start, "(0, 1)")
        self.beta_end = number("beta_end", beta_end, "(0, 1)")
        self.distribution = choice("distribution", distribution, ("uniform", "priority"))
        adaptive = clean_share == "adaptive"
        self.clean_share = clean_share if adaptive else number("clean_share", clean_share, "[0, 1]")
        self.per_channel = per_channel
        self.seed = whole_number("seed", seed, "[0, inf)")
        self.picture = Picture(value_range, channels)
        if per_channel and channels is not None:
            raise ValueError(
                f"channels={channels!r} and per_channel are both given; with one t per channel pass x[:, channels]"
            )
        self.enabled = True

        with torch.inference_mode(False):  # what is made in inference mode cannot be changed outside it
            self.register_buffer("p", torch.ones((), dtype=torch.float32, device="cpu"))
            self.register_buffer("redraws", torch.zeros((), dtype=torch.int64, device="cpu"))
        self.moved = False  # whether anybody has set p, or loaded it
        self._made_of = (1.0, 0)  # p and redraws of the chain
        self._seen: tuple[Any, ...] | None = None
        self._chains = Chains(self._make_chain())

    @classmethod
    def preset(cls, name: str, **settings: Any) -> "DiffusionNoise":
        """The settings of one of ``PRESETS``, a host or kind of data; keyword arguments override them.

        Raises:
            ValueError: an unknown name; the message lists the known ones.
        """
        choice("name", name, PRESETS)
        return cls(**{**PRESETS[name], **settings})

    @property
    def active(self) -> bool:
        """Whether a forward changes its input."""
        return self.enabled and self.t_max > 0

    @property
    def drawn_from(self) -> bool:
        """Whether anything was drawn since somebody put this to False."""
        return self._chains.drawn_from

    @drawn_from.setter
    def drawn_from(self, value: bool) -> None:
        self._chains.drawn_from = value

    def prepare(self, device: torch.device) -> None:
        """Bring the tables to a device now rather than at the first forward there."""
        self._chains.on(device)

    @property
    def T(self) -> int:  # noqa: N802
        """The current length of the chain, in t_min..t_max."""
        return self._length(self.strength)

    @property
    def strength(self) -> float:
        """The strength p as a number."""
        self._take_over()
        return self._made_of[0]

    @property
    def t_list(self) -> Tensor:
        """The steps that t is drawn from, int64 [64]."""
        return self._current().t_list

    @property
    def gain(self) -> Tensor:
        """sqrt(alpha_bar_t) at t = 0..t_max, float32 [t_max + 1]."""
        return self._current().gain

    @property
    def noise_scale(self) -> Tensor:
        """sqrt(1 - alpha_bar_t) * noise_std at t = 0..t_max, float32 [t_max + 1], in units of x."""
        return self._current().noise_scale

    def set_p(self, p: float, *, redraw: bool = False) -> None:
        """Set the strength p in [0, 1] and with it T; the list is drawn anew when T (or its clean share) moves.

        Args:
            p: the strength.
            redraw: draw the list anew in any case.

        Raises:
            TypeError: p is no number.
            ValueError: p is outside [0, 1].
        """
        p = float(np.float32(number("p", p, "[0, 1]")))
        self._take_over()
        before, redraws = self._made_of
        redraw |= (self._length(p), self._noisy_entries(p)) != (self._length(before), self._noisy_entries(before))
        self._remake(p, redraws + redraw)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Write p and redraws again, for memory that lost them: torch's deferred initialisation calls this."""
        for (name, dtype), value in zip(_STATE.items(), self._made_of, strict=True):
            buffer = self._buffers[name]
            if buffer.is_meta:
                continue
            with torch.no_grad(), torch.inference_mode(False):
                if buffer.dtype != dtype:  # as of a checkpoint that was halved: p would stop moving
                    self._buffers[name] = buffer = buffer.to(dtype)
                buffer.fill_(value)
        self._seen = self._versions()

    def alpha_bar(self, T: int | None = None) -> np.ndarray:
        """alpha_bar_t for t = 0..t_max as float64 [t_max + 1], at chain length T (the current one by default).

        A step beyond T stands at the chain's end.
        """
        T = self.T if T is None else T
        betas = SCHEDULES[self.schedule](T if self.parity == "official" else self.t_max, self.beta_start, self.beta_end)
        chain = np.concatenate([[1.0], np.cumprod(1.0 - betas)])
        return chain[np.minimum(np.arange(self.t_max + 1), T)]

    def t_weights(self, T: int | None = None) -> np.ndarray:
        """The probabilities pi of t = 1..T as float64 [T], at chain length T (the current one by default); Eq. 11."""
        T = self.T if T is None else T
        if self.distribution == "uniform" or T <= 1:
            return np.full(T, 1.0 / max(T, 1))
        weights = np.arange(T, dtype=np.float64) + (self.parity == "paper")
        return weights / weights.sum()

    def sample(
        self,
        x: Tensor,
        t: int | Tensor | None = None,
        *,
        alpha_bar: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> NoiseParams:
        """Draw t and the noise for a batch like x; ``forward(x, params=...)`` replays them.

        The arguments and errors are those of ``forward``; of x only the shape, the dtype and the device are read.
        """
        params = self.draw(x, t, alpha_bar=alpha_bar, generator=generator)
        return self.fit(params, x, Normals(generator))

    def draw(
        self,
        x: Tensor,
        t: int | Tensor | None = None,
        *,
        alpha_bar: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> NoiseParams:
        """What ``sample`` draws for batches of any size: the noise as seeds."""
        words = self._drawn_words(x, generator)
        return self.params_from(words, self.chain(words, generator), t, alpha_bar=alpha_bar)

    def fit(self, params: NoiseParams, x: Tensor, normals: Normals) -> NoiseParams:
        """The parameters for a batch like x: with normals in place of seeds where no kernels make these."""
        if not runs_reference(x):
            return params
        return NoiseParams(params.t, params.gain, params.noise_std, None, normals.like(x))

    def check(self, x: Tensor) -> None:
        """Raise TypeError or ValueError unless x is a batch that can be diffused."""
        check_floating(x)
        if x.dim() < 1 + self.per_channel or (self.picture.channels is not None and x.dim() < 2):
            needed = "[N, C, ...]" if self.per_channel or self.picture.channels is not None else "[N, ...]"
            raise ValueError(f"x has shape {list(x.shape)}; {needed} needed")

    def chain(self, words: Tensor, generator: torch.Generator | None = None) -> Chain:
        """What the draw reads which has just drawn these words."""
        self._follow()
        return self._chains.for_draw(words, generator)

    def params_from(
        self, words: Tensor, chain: Chain, t: int | Tensor | None = None, *, alpha_bar: float | Tensor | None = None
    ) -> NoiseParams:
        """What ``sample`` draws, from random words, int64 [self.words, N] ([1, N, C] with ``per_channel``)."""
        seed = words[-1]
        if t is not None and alpha_bar is not None:
            raise ValueError("t and alpha_bar are both given; a sample has one noise level")
        if alpha_bar is not None:
            level = _external("alpha_bar", alpha_bar, 1.0, seed.shape, seed.device, torch.float32)
            noise_std = (1.0 - level).sqrt() * (self.noise_std * self.picture.half_range)
            return NoiseParams(None, level.sqrt(), noise_std, seed)
        steps = self.steps(chain, t, seed.shape, seed.device)
        if not self.per_channel:
            return self.params_of(draw(words, (), steps)[1], words)
        _, levels = draw(words.flatten(1), (), steps)
        return NoiseParams(*[value.view(seed.shape) for value in levels], seed)

    def steps(
        self, chain: Chain, t: int | Tensor | None, shape: Sequence[int], device: torch.device, row: int = 0
    ) -> Steps:
        """What ``ops.draw`` looks the noise levels up by, with random words that begin at a row."""
        if t is not None:
            t = _external("t", t, self.t_max, shape, device, torch.int64).flatten()
        return Steps(row, t, *chain)

    def params_of(self, levels: Levels, words: Tensor, row: int = 0) -> NoiseParams:
        """The parameters from what ``ops.draw`` made of the steps, with random words that begin at a row."""
        return NoiseParams(*levels, words[row + 1])

    def forward(
        self,
        x: Tensor,
        t: int | Tensor | None = None,
        *,
        alpha_bar: float | Tensor | None = None,
        return_t: bool = False,
        params: NoiseParams | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Diffuse a batch.

        Args:
            x: float16, bfloat16, float32 or float64 of any shape [N, ...]; [N, C, ...] with ``per_channel``.
            t: steps in 0..t_max, one for all or int64 [N] ([N, C] with ``per_channel``), instead of a draw. A step
                beyond the current T stands at the chain's end.
            alpha_bar: noise levels in [0, 1] instead of a step, one for all or of t's shape.
            return_t: return ``(y, t)``, for a discriminator that is told t; t is 0 where the module is inactive and
                None with ``alpha_bar``.
            params: from ``sample``, to repeat a draw to the bit.
            generator: of x's device, for the draw.

        Returns:
            y of x's shape and dtype, differentiable any number of times with respect to x; with ``return_t`` a pair
            with t, int64 of shape [N], or [N, C] with ``per_channel``.

        Raises:
            TypeError: x is no floating-point tensor.
            ValueError: params are of another batch; t or alpha_bar is outside its range or of another shape. Values
                that lie on another device than the CPU are not read back for this check: there an index out of range
                trips the device's own.
        """
        if not self.active:
            return (x, x.new_zeros(x.shape[: 1 + self.per_channel], dtype=torch.int64)) if return_t else x
        if params is None:
            words = self._drawn_words(x, generator)
            chain = self.chain(words, generator)
            # In less of the host's time.
            if alpha_bar is None and not self.per_channel and draws_itself(x, words, t):
                steps = self.steps(chain, t, x.shape[:1], x.device)
                channels = self.picture.channels_of(x)
                y, t = drawn_transform(x, words, Columns(), steps, self.picture.centre, channels)
                return (y, t) if return_t else y
            params = self.fit(self.params_from(words, chain, t, alpha_bar=alpha_bar), x, Normals(generator))
        else:
            self.check(x)
            params.check(x, self.per_channel)
        if x.dim() == 4:
            images = x
        elif self.per_channel or self.picture.channels is not None:
            images = x.reshape(*x.shape[:2], 1, math.prod(x.shape[2:]))
        else:
            images = x.reshape(x.shape[0], 1, 1, math.prod(x.shape[1:]))
        one_pass = TransformParams(
            gain=params.gain,
            noise_std=params.noise_std,
            seed=params.seed,
            normals=None if params.normals is None else params.normals.reshape(images.shape),
            centre=self.picture.centre,
            channels=self.picture.channels_of(images),
        )
        y = input_transform(images, one_pass).view_as(x)
        y = y.contiguous(memory_format=memory_format(x))
        return (y, params.t) if return_t else y

    def extra_repr(self) -> str:
        return (
            f"t_max={self.t_max}, t_min={self.t_min}, noise_std={self.noise_std}, schedule={self.schedule!r}, "
            f"distribution={self.distribution!r}, clean_share={self.clean_share!r}, parity={self.parity!r}"
        )

    def _drawn_words(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        self.check(x)
        # A channel has one word: its lowest bits choose the entry, and all of it is the seed. A second one would take
        # longer than all the rest of a short channel's draw.
        shape = (1, *x.shape[:2]) if self.per_channel else (self.words, *x.shape[:1])
        return random_words(shape, x.device, generator)

    def _noisy_entries(self, p: float) -> int:
        if self.clean_share == "adaptive":
            return min(round(p * T_LIST_SIZE), _MOST_ADAPTIVE_ENTRIES)
        return round((1.0 - self.clean_share) * T_LIST_SIZE)

    def _length(self, p: float) -> int:
        return self.t_min + round(p * (self.t_max - self.t_min))

    def _make_chain(self) -> Chain:
        p, redraws = self._made_of
        T = self._length(p)
        noisy = self._noisy_entries(p) if T > 0 else 0
        uniform = np.random.default_rng([self.seed, redraws]).random(noisy)
        t_list = np.zeros(T_LIST_SIZE, dtype=np.int64)
        if noisy:
            steps = np.searchsorted(np.cumsum(self.t_weights(T)), uniform, side="right") + 1
            t_list[:noisy] = np.minimum(steps, T)
        alpha_bar = self.alpha_bar(T)
        noise_scale = np.sqrt(1.0 - alpha_bar) * (self.noise_std * self.picture.half_range)
        tables = t_list, np.sqrt(alpha_bar).astype(np.float32), noise_scale.astype(np.float32)
        with lasting():
            return Chain(*map(torch.from_numpy, tables))

    def _remake(self, p: float, redraws: int) -> None:
        """Have the chain of this p and number of redraws."""
        if (p, redraws) != self._made_of:
            self._made_of = p, redraws
            self._chains.replace(self._make_chain())
        self.moved = True

    def _take_over(self) -> None:
        self._follow(wait=True)

    def _current(self) -> Chain:
        self._take_over()
        return self._chains.on(self.p.device)

    def _versions(self) -> tuple[Any, ...]:
        """What changes when somebody writes into p or redraws, or puts others in their place."""
        return tuple(
            (id(buffer), None if buffer.is_inference() else buffer._version) for buffer in (self.p, self.redraws)
        )

    def _follow(self, *, wait: bool = False) -> None:
        """Have the chain of p and redraws, if somebody wrote into them, as by copying or averaging a state in place.

        Where they lie on a device, they are read back, which waits for it, only if torch has counted a write to them or
        the caller would wait anyway.
        """
        p, redraws = self._buffers["p"], self._buffers["redraws"]  # in less of the host's time than self.p
        if not _is_readable(p) or not (wait or p.is_cpu or self._seen != self._versions()):
            return
        is_cpu, p, redraws = p.is_cpu, float(p), int(redraws)
        if (p, redraws) != self._made_of:
            # Averages may miss the bounds by a rounding.
            if not -1e-3 < p < 1.001:
                raise ValueError(f"p of DiffusionNoise is {p:g}, outside [0, 1]; what wrote it there is no state of it")
            self._remake(min(max(p, 0.0), 1.0), redraws)
        if not is_cpu:
            self._seen = self._versions()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        *_, error_msgs = args
        p = state_dict.get(f"{prefix}p")
        if isinstance(p, Tensor) and not p.is_meta and not 0.0 <= float(p) <= 1.0:
            error_msgs.append(f"{prefix}p is {float(p):g}, outside [0, 1]")
            return
        self.moved = True
        super()._load_from_state_dict(state_dict, prefix, *args)


def _is_readable(value: Tensor) -> bool:
    """Whether a value is to be had here: not inside of a compiler, a trace or a transform, nor on the meta device."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    return type(value) is Tensor and not value.is_meta and not torch._C._functorch.is_functorch_wrapped_tensor(value)


def timestep_embedding(t: Tensor, dim: int = 64, *, kind: str = "sinusoidal", max_period: float = 10000.0) -> Tensor:
    """Embed steps for a discriminator that is told t.

    Args:
        t: integer or float steps of any shape [...].
        dim: even width of the sinusoidal embedding.
        kind: ``sinusoidal``: cosines and sines of t at dim/2 geometric frequencies from 1 to 1 / max_period
            (Vaswani et al., 2017); ``raw``: t itself as one float, as the official code concatenates it to the label.
            After a linear map and normalisation the raw form says little more than whether t > 0.
        max_period: the slowest period is 2 pi times it.

    Returns:
        float32 [..., dim], or [..., 1] for ``raw``; differentiable any number of times with respect to a float t.

    Raises:
        ValueError: kind is another, or dim is no even number >= 2.
    """
    choice("kind", kind, ("sinusoidal", "raw"))
    if kind == "raw":
        return t.float()[..., None]
    if dim < 2 or dim % 2:
        raise ValueError(f"dim={dim!r} is no even number >= 2")
    steps = torch.arange(dim // 2, device=t.device, dtype=torch.float32)
    angle = t.float()[..., None] * torch.exp(steps * (-math.log(max_period) / max(dim // 2 - 1, 1)))
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def _linear(steps: int, start: float, end: float) -> np.ndarray:
    return np.linspace(start, end, steps)


def _quadratic(steps: int, start: float, end: float) -> np.ndarray:
    return np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2


def _sigmoid(steps: int, start: float, end: float) -> np.ndarray:
    return start + (end - start) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, steps)))


def _constant(steps: int, _: float, end: float) -> np.ndarray:
    return np.full(steps, end)


def _cosine(steps: int, _: float, __: float) -> np.ndarray:
    level = np.cos((np.arange(steps + 1) / max(steps, 1) + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.clip(1.0 - level[1:] / level[:-1], 0.0, 0.999)


def _jsd(steps: int, _: float, __: float) -> np.ndarray:
    return 1.0 / np.arange(steps, 0, -1)


# beta_1..beta_steps of each schedule.
SCHEDULES: dict[str, Callable[[int, float, float], np.ndarray]] = {
    "linear": _linear,
    "cosine": _cosine,
    "quadratic": _quadratic,
    "sigmoid": _sigmoid,
    "constant": _constant,
    "jsd": _jsd,
}


def _external(
    name: str, value: float | Tensor, largest: float, shape: torch.Size, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """A noise level that the caller gives, checked and expanded to the shape of a draw."""
    if not isinstance(value, Tensor):
        level = (whole_number if dtype == torch.int64 else number)(name, value, f"[0, {largest}]")
        return torch.full(shape, level, dtype=dtype, device=device)  # filled there: nothing is copied
    if value.requires_grad:
        raise ValueError(f"{name} requires a gradient, but none is defined for it; pass {name}.detach()")
    if dtype == torch.int64 and value.dtype.is_floating_point:
        raise TypeError(f"{name} has dtype {value.dtype}; steps are integers")
    if value.dim() and value.shape != shape:
        raise ValueError(f"{name} has shape {list(value.shape)}; this input needs one value or {list(shape)}")
    readable = value.device.type == "cpu" and not torch.compiler.is_compiling()
    if readable and not bool(((value >= 0) & (value <= largest)).all()):
        raise ValueError(f"{name} has values outside [0, {largest}]: {value.min().item()} to {value.max().item()}")
    return value.to(device, dtype).expand(shape)
