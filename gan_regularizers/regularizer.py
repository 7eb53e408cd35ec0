"""InputRegularizer: augmentation and noise in one pass."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .diffaugment import DiffAugment
from .diffusion_noise import DiffusionNoise, NoiseParams
from .ops import Columns, Steps, TransformParams, draw, drawn_transform, draws_itself, input_transform, random_words
from .picture import Picture
from .state.normals import Normals


class RegularizerParams(NamedTuple):
    """One draw of an InputRegularizer for images of one size."""

    #: By part, a DiffAugment's passes, a DiffusionNoise's draw, None where it is inactive or draws for itself.
    parts: tuple[tuple[TransformParams, ...] | NoiseParams | None, ...]

    @property
    def augment(self) -> tuple[TransformParams, ...] | None:
        """What the first DiffAugment drew; None where there is none, or it is inactive."""
        return _first(self.parts, tuple)

    @property
    def noise(self) -> NoiseParams | None:
        """What the DiffusionNoise drew; None where there is none, or it is inactive."""
        return _first(self.parts, NoiseParams)


class Draw(NamedTuple):
    """What is drawn for a batch, whatever the size of its images."""

    words: Tensor | None  # int64 [R, N], for all parts that share them
    # By part, like RegularizerParams: the row where a DiffAugment's words begin; what the noise's levels are looked up
    # by, or all of it where it has words of its own.
    parts: tuple[int | Steps | NoiseParams | None, ...]
    normals: Normals  # in place of the noise's seeds where the reference backend is in force

    def shared_with(self, later: "Draw") -> "Draw":
        """The same for a later call, which drew for itself."""
        return Draw(self.words, self.parts, Normals(later.normals.generator, self.normals))


class InputRegularizer(nn.Module):
    """Regularizers one after the other, in as few passes over the images as they can be done in.

    A DiffusionNoise rides on the last pass of the DiffAugment before it, so ``InputRegularizer(augment, noise)`` is
    ``noise(augment(x))`` in one pass. It acts in ``train()`` and in ``eval()``; ``enabled = False`` switches it off,
    and ``with regularizer.off():`` for a while.

    Args:
        parts: in the order in which images go through them: DiffAugment, a DiffusionNoise, and any module or function
            of images that returns images of the same number of samples. None is left out.

    Attributes:
        augment: the first DiffAugment, or None.
        noise: the DiffusionNoise, or None.

    Raises:
        TypeError: a part cannot be called.
        ValueError: two parts are a DiffusionNoise.
    """

    augment: DiffAugment | None
    noise: DiffusionNoise | None

    def __init__(self, *parts: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        parts = tuple(part for part in parts if part is not None)
        for part in parts:
            if not callable(part) or isinstance(part, type | InputRegularizer):
                what = f"the class {part.__name__}" if isinstance(part, type) else f"a {type(part).__name__}"
                raise TypeError(
                    f"a regularizer is {what}; pass a DiffAugment, a DiffusionNoise, and any other module or function "
                    f"of images, one by one"
                )
        if sum(isinstance(part, DiffusionNoise) for part in parts) > 1:
            raise ValueError("two regularizers are a DiffusionNoise; a sample has one noise level, so one is needed")
        self.register_module("augment", None)
        self.register_module("noise", None)
        self._order: tuple[str, ...] = ()
        for i, part in enumerate(parts):
            if isinstance(part, DiffusionNoise):
                name = "noise"
            else:
                name = "augment" if isinstance(part, DiffAugment) and self.augment is None else f"part{i}"
            self.register_module(name, part if isinstance(part, nn.Module) else _Function(part))
            self._order += (name,)
        self.enabled = True

    @property
    def parts(self) -> list[nn.Module]:
        """In the order in which images go through them."""
        modules = self._modules
        return [modules[name] for name in self._order]

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Let images through as they are inside a ``with`` block."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def sample(
        self, x: Tensor, t: int | Tensor | None = None, generator: torch.Generator | None = None
    ) -> RegularizerParams:
        """Draw the parameters for a batch like x; ``forward(x, params=...)`` replays them to the bit.

        Parts that are neither a DiffAugment nor a DiffusionNoise draw when they run, and cannot be replayed so. The
        errors are those of ``forward``.
        """
        return self.params_of(self.draw(x, t, generator), x)

    def draw(self, x: Tensor, t: int | Tensor | None = None, generator: torch.Generator | None = None) -> Draw:
        """Draw for a batch like x, for images of any size; ``params_of`` fits the draw to one."""
        drawn, rows, noise_at = [], 0, None  # rows of the words, which come in one launch
        for i, part in enumerate(self.parts):
            if not isinstance(part, (DiffAugment, DiffusionNoise)) or not part.active:
                drawn.append(None)
                continue
            drawn.append(rows)
            if isinstance(part, DiffusionNoise):
                noise_at = i
                if part.per_channel:  # its words are its own
                    continue
            part.check(x)
            rows += part.words
        words = random_words((rows, x.shape[0]), x.device, generator) if rows else None
        if noise_at is not None:
            noise = self._modules["noise"]  # in less of the host's time than self.noise
            if noise.per_channel:
                drawn[noise_at] = noise.draw(x, t, generator=generator)
            else:
                chain = noise.chain(words, generator)
                drawn[noise_at] = noise.steps(chain, t, x.shape[:1], x.device, drawn[noise_at])
        return Draw(words, tuple(drawn), Normals(generator))

    def params_of(self, drawn: Draw, x: Tensor) -> RegularizerParams:
        """The parameters of a draw for images of x's size."""
        parts, passes, steps = self.parts, [], None
        for part, of_part in zip(parts, drawn.parts, strict=True):
            if isinstance(of_part, Steps):
                steps = of_part
            elif isinstance(of_part, int):
                passes += part.columns(x, of_part)
        made, levels = draw(drawn.words, passes, steps)
        params, shape_is_known = [], True
        for part, of_part in zip(parts, drawn.parts, strict=True):
            if isinstance(part, DiffusionNoise) and of_part is not None:
                if isinstance(of_part, Steps):
                    of_part = part.params_of(levels, drawn.words, of_part.row)
                if shape_is_known:
                    of_part = part.fit(of_part, x, drawn.normals)
            elif not isinstance(part, (DiffAugment, DiffusionNoise)):
                shape_is_known = False  # a part of somebody else's may make images of another size
            elif isinstance(of_part, int):
                count = len(part.passes)
                of_part, made = part.params_of(made[:count], x), made[count:]
            params.append(of_part)
        return RegularizerParams(tuple(params))

    def forward(
        self,
        x: Tensor,
        t: int | Tensor | None = None,
        *,
        return_t: bool = False,
        params: RegularizerParams | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Augment and diffuse a batch; the arguments are those of ``DiffusionNoise.forward``.

        Returns:
            y of x's shape and dtype, differentiable any number of times with respect to x; with ``return_t`` a pair
            with t, int64 [N] (or [N, C] with noise per channel), zeros where no noise acts.

        Raises:
            TypeError: x is no floating-point tensor.
            ValueError: x has a rank that a part does not take; t is outside its range; params are of another batch, or
                another regularizer.
        """
        if not self.enabled:
            return (x, self.steps(x, None)) if return_t else x
        if params is None:
            y, steps, _ = self.run(x, self.draw(x, t, generator), fits=True)
        else:
            y, steps = self.transform(x, params), self._steps_of(params)
        return (y, self.steps(x, steps)) if return_t else y

    def steps(self, x: Tensor, t: Tensor | None) -> Tensor:
        """The steps t of a batch, int64 [N] (or [N, C] with noise per channel): zeros where no noise acted."""
        if t is not None:
            return t
        per_channel = self.noise is not None and self.noise.per_channel
        return x.new_zeros(x.shape[: 1 + per_channel], dtype=torch.int64)

    def run(
        self,
        x: Tensor,
        drawn: Draw,
        run_part: Callable[[int, nn.Module, Tensor], Tensor] | None = None,
        *,
        fits: bool = False,
    ) -> tuple[Tensor, Tensor | None, RegularizerParams | None]:
        """Send a batch through the parts with a draw: ``params_of`` and ``transform``, whose arguments the others are.

        Where every pass can draw for itself, no parameters are made; what is saved for the backward pass is the same.

        Returns:
            The images; the steps t, None where no noise acted; the parameters, if they were made.
        """
        steps = _first(drawn.parts, Steps)
        plain = draws_itself(x, drawn.words, None if steps is None else steps.t)
        passes = self._passes(x, drawn) if plain else None
        if passes is None:
            params = self.params_of(drawn, x)
            return self.transform(x, params, run_part, fits=fits), self._steps_of(params), params
        t = None
        for columns, steps, picture in passes:
            channels = picture.channels_of(x)
            x, taken = drawn_transform(x, drawn.words, columns, steps, picture.centre, channels)
            t = t if taken is None else taken
        return x, t, None

    def transform(
        self,
        x: Tensor,
        params: RegularizerParams,
        run_part: Callable[[int, nn.Module, Tensor], Tensor] | None = None,
        *,
        fits: bool = False,
    ) -> Tensor:
        """Send a batch through the parts with these parameters.

        A part that draws for itself is called by run_part, if given. What was just drawn for x fits it, and is not
        checked.
        """
        if len(params.parts) != len(self._order):
            raise ValueError(
                f"params have {len(params.parts)} parts, the regularizer {len(self._order)}; draw by sample(x)"
            )
        drawn, waiting = params.parts, None  # the last pass of an augmentation, on which noise may ride
        drawn_for = x.shape[1:]
        for i, part in enumerate(self.parts):
            if isinstance(part, DiffusionNoise):
                if drawn[i] is None or not part.enabled:
                    continue
                if waiting is not None and not part.per_channel and part.picture == waiting[0]:
                    x, waiting = input_transform(x, waiting[1].with_noise(*drawn[i][1:]), fits), None
                    continue
            elif isinstance(part, DiffAugment) and not (drawn[i] and part.enabled):
                continue
            if waiting is not None:
                x, waiting = input_transform(x, waiting[1], fits), None
            if isinstance(part, DiffAugment):
                if x.shape[1:] != drawn_for:
                    raise ValueError(
                        f"a part before DiffAugment makes images {list(x.shape[1:])} of {list(drawn_for)}; put it "
                        f"after DiffAugment, or resize before D is called"
                    )
                for one_pass in drawn[i][:-1]:
                    x = input_transform(x, one_pass, fits)
                waiting = part.picture, drawn[i][-1]
            elif isinstance(part, DiffusionNoise):
                x = part(x, params=drawn[i])
            else:
                x, fits = part(x) if run_part is None else run_part(i, part, x), False  # it may be another batch
        return x if waiting is None else input_transform(x, waiting[1], fits)

    def _steps_of(self, params: RegularizerParams) -> Tensor | None:
        drawn = _first(params.parts, NoiseParams)  # torch 2.4 compiles no property of a tuple
        return None if drawn is None or not self.noise.enabled else drawn.t

    def _passes(self, x: Tensor, drawn: Draw) -> list[tuple[Columns, Steps | None, Picture]] | None:
        """What each pass over a batch draws; None where a part is no pass that can draw for itself."""
        passes: list[tuple[Columns, Steps | None, Picture]] = []
        for part, of_part in zip(self.parts, drawn.parts, strict=True):
            if not isinstance(part, (DiffAugment, DiffusionNoise)) or isinstance(of_part, NoiseParams):
                return None
            if of_part is None or not part.enabled:
                continue
            if isinstance(of_part, Steps):
                rides = passes and passes[-1][2] == part.picture
                passes.append((passes.pop()[0] if rides else Columns(), of_part, part.picture))
            else:
                passes += [(columns, None, part.picture) for columns in part.columns(x, of_part)]
        return passes

    def extra_repr(self) -> str:
        return " -> ".join(self._order) + ("" if self.enabled else ", off")


def _first(parts: Iterable[Any], kind: type) -> Any:
    """The first part of a kind; a draw of the noise is no plain tuple. A loop, since torch 2.4 compiles no ``next``."""
    for part in parts:
        if isinstance(part, kind) and not (kind is tuple and isinstance(part, NoiseParams)):
            return part
    return None


class _Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))
