"""The hook that wrap puts before a discriminator: it draws, regularises the images of a call, and tells D t."""

import contextlib
import functools
import warnings
from collections.abc import Callable
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..ops import random_words
from ..regularizer import Draw, InputRegularizer, RegularizerParams
from ..state.recomputation import Remembered, runs_again
from .inputs import Inputs, Place
from .scale_shift import ScaleShift


class WrapWarning(UserWarning):
    """D is not told how far images are diffused, or runs past its regularizer."""


class Call(NamedTuple):
    """What a call of D saw."""

    images: tuple[Tensor, ...]  # as D saw them, in the order of the arguments
    params: tuple[RegularizerParams, ...]  # that made them of what came in
    t: Tensor | None  # int64 [N], the steps of the first image


class SharedDraw:
    """One draw for all calls of D inside ``same_draw``.

    Attributes:
        calls: what each call saw, in order: ``images``, a tuple of the images as D saw them, in the order of the
            arguments; ``params``, a tuple of the draws that made them of what came in; ``t``, int64 [N], the steps of
            the first image.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.of_batch: dict[Any, _Drawn] = {}


class _Drawn(NamedTuple):
    draw: Draw
    states: dict[int, list[tuple[Any, Tensor]]]  # of torch's generators, before each part that draws for itself


class Hook:
    """The pre-hook of D.

    Every call draws from torch's generator, one that is off or shares an earlier draw too. So no two calls find it in
    one state, by which a call that activation checkpointing runs again is told from all others.
    """

    def __init__(
        self,
        D_name: str,
        regularizer: InputRegularizer,
        inputs: Inputs,
        t_place: Place | None,
        t_is_ours: bool,
        scale_shift: tuple[str, ...],
        watched: str,
    ) -> None:
        self.regularizer = regularizer
        self.scale_shift = scale_shift  # the layers that have one
        self.watched = watched  # the first layer, which runs where D runs; empty for none
        self.shared: SharedDraw | None = None
        self._D_name = D_name
        self._inputs = inputs
        self._t = t_place  # the parameter by which D is told t
        self._t_is_ours = t_is_ours  # whether a t that the caller passes there is the noise's
        # Whether a call D(x) asks for nothing but to regularise x; most do, and then every microsecond counts.
        self._only_image = inputs.first and t_place is None and not scale_shift
        self._shared_draws = Remembered()
        self._off = Remembered()
        self.inside: set[int] = set()  # threads that run a call of D
        self._compiled = False
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shared": None, "inside": set()}

    def __call__(self, D: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Return the arguments with the images regularised and D told t."""
        if torch.compiler.is_compiling():
            self._compiled = plain = True
        else:
            self.inside.add(get_ident())
            plain = not runs_again()
        plain = plain and self.shared is None and self.regularizer.enabled
        if plain and self._only_image and args and isinstance(args[0], Tensor):
            if kwargs or len(args) > 1:
                self._inputs.check(args, kwargs)
            return (self.regularizer(args[0]), *args[1:]), kwargs
        return self._full(D, args, kwargs, plain)

    def _full(
        self, D: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], plain: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call of any kind."""
        regularizer, place = self.regularizer, self._t
        given = place.value(args, kwargs) if place is not None else None
        wanted = given if self._t_is_ours and regularizer.noise is not None else None
        steps: list[Tensor] = []
        if plain and self._inputs.single(args, kwargs):

            def transform(image: Tensor) -> Tensor:
                y, t = regularizer(image, wanted, return_t=True)
                steps.append(t)
                return y

        else:
            transform = self._several(wanted, steps)
        args, kwargs = self._inputs.transform(transform, args, kwargs)
        t = steps[0]
        if place is not None and (given is None or wanted is not None):
            args, kwargs = place.put(t, args, kwargs)
        elif place is not None and regularizer.noise is not None and regularizer.noise.active:
            self._say(
                f"{self._D_name} is passed a t of its own, so it is not told how far images are diffused, which did "
                f"harm in our runs; pass wrap(..., tell='scale-shift'), or tell='nothing' if this is meant"
            )
        if self.scale_shift:
            if not regularizer.noise.active:
                random_words((1,), t.device)
            for layer in self.scale_shift:
                _scale_shift_of(D, layer).tell(t)
        return args, kwargs

    def missed(self) -> None:
        """Say once that D's layers run outside of a call of D."""
        if not (self._compiled or not self.regularizer.enabled or runs_again()):
            self._say(
                f"{self._D_name} runs past its regularizer: D.forward(x), or a method that runs D's layers, was called "
                f"directly; only a call D(x) is regularised, in D's own methods self(x). Where this is meant, ignore "
                f"this warning"
            )

    def left(self, D: nn.Module) -> None:
        """End a call of D, which has told its layers t."""
        ran = [_scale_shift_of(D, layer).end() for layer in self.scale_shift]
        if not (torch.compiler.is_compiling() or any(ran) or self._compiled or runs_again()):
            self._say(
                f"{self._D_name} ran without {' or '.join(self.scale_shift) or 'itself'}, by which it is told t; name "
                f"the layers that run first: wrap(..., tell=('NAME', ...)), as in named_modules()"
            )

    def _say(self, message: str) -> None:
        if message not in self._said and not torch.compiler.is_compiling():
            self._said.add(message)
            warnings.warn(message, WrapWarning, stacklevel=3)

    def _several(self, wanted: Any, steps: list[Tensor]) -> Callable[[Tensor], Tensor]:
        """What makes all images of a call, or of the calls that share a draw, from one draw for each size of batch."""
        regularizer, of_batch = self.regularizer, {}
        off: list[bool] = []
        call: list[tuple[Tensor, RegularizerParams]] = []
        shared = None if runs_again() else self.shared
        if shared is not None:
            shared.calls.append(Call((), (), None))

        def transform(image: Tensor) -> Tensor:
            if not off:
                off.append(self._is_off(image.device))
            if off[0]:
                y, t, params = image, None, RegularizerParams((None,) * len(regularizer.parts))
            else:
                key = image.shape[0], image.device
                if key not in of_batch:
                    of_batch[key] = self._drawn(key, image, wanted)
                drawn = of_batch[key]
                run_part = functools.partial(_replayed, drawn.states)
                y, t, params = regularizer.run(image, drawn.draw, run_part)
            steps.append(regularizer.steps(image, t))
            if shared is not None:
                call.append((y, regularizer.params_of(drawn.draw, image) if params is None else params))
                shared.calls[-1] = Call(*map(tuple, zip(*call, strict=True)), steps[0])
            return y

        return transform

    def _is_off(self, device: torch.device) -> bool:
        if runs_again():
            return self._off(False, device)
        off = not self.regularizer.enabled
        if off:
            self._off(True, device)
            random_words((1,), device)
        return off

    def _drawn(self, key: Any, image: Tensor, wanted: Any) -> _Drawn:
        """The draw of a call for a size of batch."""
        shared = self.shared.of_batch.get(key) if self.shared is not None and not runs_again() else None
        drawn = self._shared_draws(shared, image.device)
        # A draw that is shared with calls outside of inference mode must not be made inside of it.
        lasting = self.shared is not None and not torch.compiler.is_compiling()
        with torch.inference_mode(False) if lasting else contextlib.nullcontext():
            own = _Drawn(self.regularizer.draw(image, wanted), {})
        if drawn is not None:
            if wanted is not None and not runs_again():
                raise ValueError("a t is given to a call that shares an earlier draw, whose t it has; leave one out")
            return _Drawn(drawn.draw.shared_with(own.draw), drawn.states)
        if self.shared is not None and not runs_again():
            self.shared.of_batch[key] = own
        return own


class AtTheEnd:
    """The hook of D, which runs after it, also where it raises."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    def __call__(self, D: nn.Module, _: Any, output: Any) -> None:
        """Tell the pre-hook."""
        compiling = torch.compiler.is_compiling()
        if not compiling:
            self.hook.inside.discard(get_ident())
        # A compiler that is shown the output would look for its gradient.
        if self.hook.scale_shift and (compiling or output is not None):
            self.hook.left(D)


class AtTheLayer:
    """A pre-hook of the first layer of one D, or of several that share it."""

    def __init__(self) -> None:
        self.hooks: list[Hook] = []

    def __call__(self, *_: Any) -> None:
        """Tell the pre-hooks, in case none of them ran."""
        if torch.compiler.is_compiling():
            return
        thread = get_ident()
        for hook in self.hooks:
            if thread in hook.inside:
                return
        for hook in self.hooks:
            hook.missed()


def scale_and_shift(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    """The hook of a layer that has a ScaleShift."""
    return layer.scale_shift(output)


def _scale_shift_of(D: nn.Module, layer: str) -> ScaleShift:
    """That of a layer; step by step, since torch 2.4 compiles no ``get_submodule``."""
    for name in layer.split(".") if layer else ():
        D = getattr(D, name)
    if not hasattr(D, "scale_shift"):
        raise RuntimeError(f"the layer {layer!r}, by which D is told t, was replaced; unwrap D and wrap it again")
    return D.scale_shift


def _replayed(states: dict[int, Any], i: int, part: nn.Module, x: Tensor) -> Tensor:
    """Run a part that draws for itself from torch's generators as they were when it ran first."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"{type(part).__name__} draws for itself, which several images or calls cannot share in compiled code; "
            f"leave D uncompiled, or give D one image a call"
        )
    device = x.device
    if i not in states:
        states[i] = [(None, torch.get_rng_state())]
        if device.type != "cpu":
            states[i].append((device, torch.get_device_module(device).get_rng_state(device)))
        return part(x)
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        for of, state in states[i]:
            if of is None:
                torch.set_rng_state(state)
            else:
                torch.get_device_module(of).set_rng_state(state, of)
        return part(x)
