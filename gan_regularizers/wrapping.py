"""wrap: put regularizers before a discriminator, which stays the module that it is."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .inputs import Inputs, Place
from .ops import random_words
from .recomputation import Remembered, runs_again
from .regularizer import Draw, InputRegularizer, RegularizerParams
from .scale_shift import ScaleShift, first_layer

# The keys of our hooks in a module's dictionaries of hooks. ``register_forward_pre_hook`` would file them under a
# number, which a process that loads a pickled module gives out again.
_KEY = "gan_regularizers"
_KEY_OF_LAYER = "gan_regularizers.layer"


class WrapWarning(UserWarning):
    """D is not told how far images are diffused, or runs past its regularizer."""


def wrap(
    D: nn.Module,
    *regularizers: Callable[[Tensor], Tensor] | None,
    inputs: str | int | Iterable[str | int] | None = None,
    tell: str | None = None,
    t_argument: str | None = None,
) -> nn.Module:
    """Put regularizers before a discriminator::

        wrap(D, DiffAugment(), DiffusionNoise(), tell="scale-shift")

    D itself is returned, with a hook: class, attributes, children, names of parameters and keys of ``state_dict`` are
    as before. The hook acts where D is called, ``D(x)``, and takes no part in ``D.state_dict()``; the state of what
    adapts is that of ``AdaptiveT``. Wrap before the optimiser is built, and before DistributedDataParallel, FSDP and
    ``torch.compile``. ``regularizer_of(D)`` is what acts, ``unwrap(D)`` takes it off.

    Args:
        D: the discriminator.
        regularizers: in the order in which images go through them: DiffAugment, a DiffusionNoise, and any module or
            function of images; or one InputRegularizer, which several D may share. None is left out.
        inputs: which of D's arguments are images, by name or position, one or several, or places inside dictionaries
            and lists, such as ``("img[image]", "img[image_raw]")``; of a dictionary or list as a whole, its floating
            tensors of the highest rank. The images of a call share one draw: shifts and boxes in proportion to their
            sizes, the same colours, the same t. By default the first argument.
        tell: how D is told t. By default by its parameter ``t``, int64 [N], if it has one and the caller leaves it out
            (or passes None); a t that the caller passes is D's own. ``"scale-shift"``: for any other D, an embedding of
            t scales and shifts the output of its first layer with weights, at first by 1 and 0. It is a part of D with
            parameters, in this layer under the name ``scale_shift``. ``"nothing"``: D is told nothing.
        t_argument: the parameter of D by which it is told t, of whatever name; a t that the caller passes there is the
            one that the noise takes.

    Returns:
        D.

    Raises:
        TypeError: D is no module, or a regularizer or a setting is of another type.
        ValueError: D is, or holds, a wrapped discriminator, or is already parallel or compiled; there is no
            regularizer, or more than one DiffusionNoise; inputs or t_argument are no parameters of D.

    Warns:
        WrapWarning: there is a noise of which D is told nothing; later, once, if D's layers run past the hook.
    """
    if not isinstance(D, nn.Module):
        raise TypeError(f"D is a {type(D).__name__}; wrap takes the discriminator, a torch.nn.Module")
    if _inner(D) is not D:
        raise ValueError(f"D is already inside {type(D).__name__}; wrap the discriminator first, then what runs it")
    if any(_KEY in module._forward_pre_hooks for module in D.modules()):
        raise ValueError(f"D, a {type(D).__name__}, is or holds a wrapped discriminator; unwrap it first")
    if all(part is None for part in regularizers):
        raise ValueError("wrap got no regularizer; pass a DiffAugment, a DiffusionNoise or both")
    whole = len(regularizers) == 1 and isinstance(regularizers[0], InputRegularizer)
    regularizer = regularizers[0] if whole else InputRegularizer(*regularizers)
    hook = _Hook(D, regularizer, Inputs(D, inputs), tell, t_argument)
    if regularizer.noise is not None:
        for device in {parameter.device for parameter in D.parameters()}:
            regularizer.noise.prepare(device)
    D._forward_pre_hooks[_KEY] = hook
    D._forward_pre_hooks_with_kwargs[_KEY] = True
    D._forward_hooks[_KEY] = _AtTheEnd(hook)
    D._forward_hooks_always_called[_KEY] = True
    if hook.layer:  # else there is none, or it is D
        D.get_submodule(hook.layer)._forward_pre_hooks[_KEY_OF_LAYER] = _AtTheLayer(hook)
    if hook.scale_shift:
        layer = D.get_submodule(hook.layer)
        layer.scale_shift = ScaleShift.of(layer)
        layer._forward_hooks[_KEY_OF_LAYER] = _scale_and_shift
    return D


def unwrap(D: nn.Module) -> nn.Module:
    """Take the regularizer off a wrapped discriminator, and what ``tell="scale-shift"`` added to it; return D.

    Raises:
        ValueError: D is not wrapped.
    """
    hook = _hook_of(D)
    D = _inner(D)
    layer = D if hook.layer is None else D.get_submodule(hook.layer)
    if hook.scale_shift:
        del layer.scale_shift
    for module, key in ((D, _KEY), (layer, _KEY_OF_LAYER)):
        for hooks in (
            module._forward_pre_hooks,
            module._forward_pre_hooks_with_kwargs,
            module._forward_hooks,
            module._forward_hooks_always_called,
        ):
            hooks.pop(key, None)
    return D


def regularizer_of(D: nn.Module) -> InputRegularizer:
    """What acts before a wrapped discriminator, also where D is inside DistributedDataParallel or compiled::

        regularizer_of(D).enabled = False       # D sees images as they are
        with regularizer_of(D).off(): ...       # the same for a while
        regularizer_of(D).noise.set_p(0.3)

    Raises:
        ValueError: D is not wrapped.
    """
    return _hook_of(D).regularizer


class Call(NamedTuple):
    """What a call of D saw."""

    images: tuple[Tensor, ...]  # as D saw them, in the order of the arguments
    params: tuple[RegularizerParams, ...]  # that made them of what came in
    t: Tensor | None  # int64 [N], the steps of the first image


class SharedDraw:
    """One draw for all calls of D inside ``same_draw``; what D saw is in ``calls``."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.of_batch: dict[Any, _Drawn] = {}


@contextlib.contextmanager
def same_draw(D: nn.Module) -> Iterator[SharedDraw]:
    """Let D's calls on batches of one size share their draw inside a ``with`` block::

        with same_draw(D) as draw:
            loss = feature_matching(D(fake), D(real))
        seen = draw.calls[-1].images[0]  # the real images as D saw them; .params and .t of the same call

    So features of a fake and of its real image are comparable: of equal images they are equal.

    Raises:
        ValueError: D is not wrapped.
        RuntimeError: the block is inside another one for the same D.
    """
    hook = _hook_of(D)
    if hook.shared is not None:
        raise RuntimeError("same_draw is inside another same_draw of this D; one block is enough")
    hook.shared = SharedDraw()
    try:
        yield hook.shared
    finally:
        hook.shared = None


class _Drawn(NamedTuple):
    draw: Draw
    states: dict[int, list[tuple[Any, Tensor]]]  # of torch's generators, before each part that draws for itself


class _Hook:
    """The pre-hook of D."""

    def __init__(
        self, D: nn.Module, regularizer: InputRegularizer, inputs: Inputs, tell: str | None, t_argument: str | None
    ) -> None:
        self.regularizer = regularizer
        self.shared: SharedDraw | None = None
        self._inside: set[int] = set()  # threads that run a call of D
        self._compiled = False
        self._D_name = type(D).__name__
        self._inputs = inputs
        self._remembered = Remembered()
        self._missed = False
        self.scale_shift = tell == "scale-shift"
        self.layer = first_layer(D)
        self._t_named = t_argument is not None
        self._t = self._place_of_t(tell, t_argument)

    def __call__(self, D: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Return the arguments with the images regularised and D told t."""
        if torch.compiler.is_compiling():
            self._compiled = True
        else:
            self._inside.add(threading.get_ident())
        regularizer, place = self.regularizer, self._t
        given = place.value(args, kwargs) if place is not None else None
        wanted = given if self._t_named and regularizer.noise is not None else None
        steps: list[Tensor] = []
        plain = torch.compiler.is_compiling() or (self._remembered.empty and not runs_again())
        if self.shared is None and plain and self._inputs.single(args, kwargs):

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
        if self.scale_shift:
            self._tell_the_layer(D, t)
        return args, kwargs

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shared": None, "_inside": set()}

    def missed(self) -> None:
        """Say once that D's layers run outside of a call of D."""
        known = self._missed or self._compiled or not self.regularizer.enabled
        if known or threading.get_ident() in self._inside or torch.compiler.is_compiling() or runs_again():
            return
        self._missed = True
        warnings.warn(
            f"{self._D_name} runs past its regularizer: D.forward(x), or a method that runs D's layers, was called "
            f"directly; only a call D(x) is regularised, in D's own methods self(x). Where this is meant, ignore this "
            f"warning",
            WrapWarning,
            stacklevel=2,
        )

    def left(self) -> None:
        """Say that a call of D has ended."""
        if not torch.compiler.is_compiling():
            self._inside.discard(threading.get_ident())

    def _several(self, wanted: Any, steps: list[Tensor]) -> Callable[[Tensor], Tensor]:
        """What makes all images of a call, or of the calls that share a draw, from one draw for each size of batch."""
        regularizer, of_batch = self.regularizer, {}
        call: list[tuple[Tensor, RegularizerParams]] = []

        def transform(image: Tensor) -> Tensor:
            if not regularizer.enabled:
                steps.append(regularizer.no_steps(image))
                return image
            key = image.shape[0], image.device
            drawn = of_batch.get(key)
            if drawn is None:
                drawn = of_batch[key] = self._drawn(key, image, wanted)
            params = regularizer.params_of(drawn.draw, image)
            y = regularizer.transform(image, params, lambda i, part, x: _replayed(drawn.states, i, part, x))
            steps.append(regularizer.no_steps(image) if params.noise is None else params.noise.t)
            if self.shared is not None:
                call.append((y, params))
                self.shared.calls[-1] = Call(*map(tuple, zip(*call, strict=True)), steps[0])
            return y

        if self.shared is not None:
            self.shared.calls.append(Call((), (), None))
        return transform

    def _tell_the_layer(self, D: nn.Module, t: Tensor) -> None:
        noise = self.regularizer.noise
        draws, lasts = self.regularizer.enabled and noise.active, torch.is_grad_enabled()
        if not draws and lasts:  # so that no other call finds torch's generator in the same state
            random_words((1,), t.device)
        D.get_submodule(self.layer).scale_shift.tell(t, draws or lasts)

    def _drawn(self, key: Any, image: Tensor, wanted: Any) -> _Drawn:
        """The draw of a call for a size of batch.

        Every call draws, so that no two of them find torch's generator in one state, by which a call that runs again is
        told from others. One that shares an earlier draw does not use its own.
        """
        shared = self.shared.of_batch.get(key) if self.shared is not None and not runs_again() else None
        drawn = self._remembered(shared, image.device)
        own = _Drawn(self.regularizer.draw(image, wanted), {})
        if drawn is not None:
            return drawn
        if self.shared is not None and not runs_again():
            self.shared.of_batch[key] = own
        return own

    def _place_of_t(self, tell: str | None, t_argument: str | None) -> Place | None:
        noise = self.regularizer.noise
        if tell not in (None, "scale-shift", "nothing"):
            raise ValueError(f"tell={tell!r} is unknown; choose 'scale-shift' or 'nothing', or leave it out")
        if t_argument is not None:
            if tell is not None:
                raise ValueError(f"tell={tell!r} and t_argument={t_argument!r} are both given; D is told t in one way")
            place = self._inputs.parameter(t_argument)
            if place is None:
                raise ValueError(f"t_argument={t_argument!r} is no parameter of {self._D_name}.forward")
            return place
        if tell == "scale-shift":
            if noise is None:
                raise ValueError("tell='scale-shift' tells D the t of a DiffusionNoise; there is none")
            if noise.per_channel:
                raise ValueError("tell='scale-shift' tells D one t per sample; the noise has one per channel")
            if self.layer is None:
                raise ValueError(f"tell='scale-shift', but no layer of {self._D_name} has weights that it could act on")
        if tell is not None or noise is None:
            return None
        place = self._inputs.parameter("t")
        if place is None or place in self._inputs.places:
            warnings.warn(
                f"{self._D_name} is not told how far images are diffused, which did harm in our runs. Pass "
                f"wrap(..., tell='scale-shift') before the optimiser is built, or give D.forward a parameter t; "
                f"tell='nothing' if this is meant",
                WrapWarning,
                stacklevel=4,
            )
            return None
        return place


class _AtTheEnd:
    """The hook of D, which runs after it, also where it raises."""

    def __init__(self, hook: _Hook) -> None:
        self.hook = hook

    def __call__(self, *_: Any) -> None:
        self.hook.left()


class _AtTheLayer:
    """A pre-hook of D's first layer."""

    def __init__(self, hook: _Hook) -> None:
        self.hook = hook

    def __call__(self, *_: Any) -> None:
        self.hook.missed()


def _scale_and_shift(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    return layer.scale_shift(output)


def _inner(D: nn.Module) -> nn.Module:
    """What DataParallel, DistributedDataParallel, FSDP or the compiler holds."""
    while True:
        if hasattr(D, "_orig_mod"):
            D = D._orig_mod
        elif isinstance(D, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(D, "_fsdp_wrapped_module"):
            D = D.module
        else:
            return D


def _hook_of(D: nn.Module) -> _Hook:
    hook = _inner(D)._forward_pre_hooks.get(_KEY) if isinstance(D, nn.Module) else None
    if hook is None:
        raise ValueError(f"D, a {type(D).__name__}, is not wrapped; call wrap(D, ...) first")
    return hook


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
    kind = device.type if devices else "cuda"
    with torch.random.fork_rng(devices, device_type=kind):
        for of, state in states[i]:
            if of is None:
                torch.set_rng_state(state)
            else:
                torch.get_device_module(of).set_rng_state(state, of)
        return part(x)
