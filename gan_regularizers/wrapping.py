"""wrap: put regularizers before a discriminator, which stays the module that it is."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from torch import Tensor, nn

from .hooks.hook import AtTheEnd, AtTheLayer, Hook, SharedDraw, WrapWarning, scale_and_shift
from .hooks.inputs import Inputs, Place
from .hooks.scale_shift import ScaleShift, first_layer, has_weight
from .regularizer import InputRegularizer

# The keys of our hooks in a module's dictionaries of hooks. ``register_forward_pre_hook`` would file them under a
# number, which a process that loads a pickled module gives out again.
_KEY = "gan_regularizers"
_KEY_OF_LAYER = "gan_regularizers.layer"

_Discriminator = TypeVar("_Discriminator", bound=nn.Module)


def wrap(
    D: _Discriminator,
    *regularizers: Callable[[Tensor], Tensor] | None,
    inputs: str | int | Iterable[str | int] | None = None,
    tell: str | Iterable[str] | None = None,
    t_argument: str | None = None,
) -> _Discriminator:
    """Put regularizers before a discriminator::

        wrap(D, DiffAugment(), DiffusionNoise(), tell="scale-shift")

    D itself is returned, with a hook: class, attributes, children, names of parameters and keys of ``state_dict`` are
    as before. The hook acts where D is called, ``D(x)``, and takes no part in ``D.state_dict()``; the state of what
    adapts is that of ``AdaptiveT``. Wrap after D's weights were initialised and before the optimiser is built, and
    before DistributedDataParallel, FSDP and ``torch.compile``. ``regularizer_of(D)`` is what acts, ``unwrap(D)`` takes
    it off.

    Args:
        D: the discriminator.
        regularizers: in the order in which images go through them: DiffAugment, a DiffusionNoise, and any module or
            function of images; or one InputRegularizer, which several D may share. None is left out.
        inputs: which of D's arguments are images, by name or position, one or several, or places inside dictionaries
            and lists, such as ``("img[image]", "img[image_raw]")``; of a dictionary or list as a whole, its floating
            tensors of the highest rank. The images of a call share one draw: shifts and boxes in proportion to their
            sizes, the same colours, the same t and, where sizes are equal, the same noise. By default the first
            argument.
        tell: how D is told t. By default by its parameter ``t``, int64 [N] ([N, C] with noise per channel), if it has
            one and the caller leaves it out (or passes None); a t that the caller passes is D's own. ``"scale-shift"``:
            for any other D, an embedding of t scales and shifts the output of D's first layer with weights, at first by
            1 and 0. It is a part of D with parameters, in this layer under the name ``scale_shift``. Names of layers,
            as in ``named_modules``: the same for these, where another runs first. ``"nothing"``: D is told nothing.
        t_argument: the parameter of D by which it is told t, of whatever name; a t that the caller passes there is the
            one that the noise takes.

    Returns:
        D.

    Raises:
        TypeError: D is no module, or a regularizer or a setting is of another type.
        ValueError: D is, or holds, a wrapped discriminator, or is already parallel or compiled; there is no
            regularizer, or more than one DiffusionNoise; inputs, tell or t_argument name nothing that D has.

    Warns:
        WrapWarning: there is a noise of which D is told nothing; later, once each, if D's layers run past the hook, or
            D runs without the layer by which it is told t.
    """
    if not isinstance(D, nn.Module):
        raise TypeError(f"D is a {type(D).__name__}; wrap takes the discriminator, a torch.nn.Module")
    if _inner(D) is not D:
        raise ValueError(
            f"D is already inside {type(D).__name__}; wrap the discriminator that it holds, best before it is put there"
        )
    if any(_KEY in module._forward_pre_hooks for module in D.modules()):
        raise ValueError(f"D, a {type(D).__name__}, is or holds a wrapped discriminator; unwrap it first")
    regularizers = tuple(part for part in regularizers if part is not None)
    if not regularizers:
        raise ValueError("wrap got no regularizer; pass a DiffAugment, a DiffusionNoise or both")
    whole = len(regularizers) == 1 and isinstance(regularizers[0], InputRegularizer)
    regularizer = regularizers[0] if whole else InputRegularizer(*regularizers)
    found = Inputs(D, inputs)
    layers = _layers(D, regularizer, tell)
    t_place = _place_of_t(D, regularizer, found, tell, t_argument)
    watched = layers[0] if layers else first_layer(D) or ""
    hook = Hook(type(D).__name__, regularizer, found, t_place, t_argument is not None, layers, watched)
    if regularizer.noise is not None:
        for device in {parameter.device for parameter in D.parameters()}:
            regularizer.noise.prepare(device)
    scale_shifts = [ScaleShift.of(D.get_submodule(layer)) for layer in layers]  # all of them, or an error

    D._forward_pre_hooks[_KEY] = hook
    D._forward_pre_hooks_with_kwargs[_KEY] = True
    D._forward_hooks[_KEY] = AtTheEnd(hook)
    D._forward_hooks_always_called[_KEY] = True
    if watched:  # else there is no such layer, or it is D
        D.get_submodule(watched)._forward_pre_hooks.setdefault(_KEY_OF_LAYER, AtTheLayer()).hooks.append(hook)
    for name, scale_shift in zip(layers, scale_shifts, strict=True):
        layer = D.get_submodule(name)
        layer.scale_shift = scale_shift
        layer._forward_hooks[_KEY_OF_LAYER] = scale_and_shift
        layer._forward_hooks.move_to_end(_KEY_OF_LAYER, last=False)  # where the layer is D, before D's own
    return D


def unwrap(D: nn.Module) -> nn.Module:
    """Take the regularizer off a wrapped discriminator, and what ``tell="scale-shift"`` added to it; return D.

    Raises:
        ValueError: D is not wrapped.
    """
    hook = _hook_of(D)
    D = _inner(D)
    for name, module in list(D.named_modules()):  # some of the layers may have been replaced
        if name in hook.scale_shift and isinstance(getattr(module, "scale_shift", None), ScaleShift):
            del module.scale_shift
            module._forward_hooks.pop(_KEY_OF_LAYER, None)
        watch = module._forward_pre_hooks.get(_KEY_OF_LAYER)
        if watch is not None and hook in watch.hooks:
            watch.hooks.remove(hook)
            if not watch.hooks:
                del module._forward_pre_hooks[_KEY_OF_LAYER]
    for hooks in (
        D._forward_pre_hooks,
        D._forward_pre_hooks_with_kwargs,
        D._forward_hooks,
        D._forward_hooks_always_called,
    ):
        hooks.pop(_KEY, None)
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


def _layers(D: nn.Module, regularizer: InputRegularizer, tell: str | Iterable[str] | None) -> tuple[str, ...]:
    """The layers that are to scale and shift by t."""
    if tell in (None, "nothing"):
        return ()
    noise = regularizer.noise
    if noise is None:
        raise ValueError(f"tell={tell!r} tells D the t of a DiffusionNoise; there is none")
    if noise.per_channel:
        raise ValueError(f"tell={tell!r} tells D one t per sample; the noise has one per channel")
    if tell == "scale-shift":
        layer = first_layer(D)
        if layer is None:
            raise ValueError(f"tell='scale-shift', but no layer of {type(D).__name__} has weights that it could act on")
        tell = (layer,)
    if not isinstance(tell, Iterable):
        raise TypeError(f"tell={tell!r} is neither 'scale-shift' nor 'nothing' nor names of layers")
    layers, names = (tell,) if isinstance(tell, str) else tuple(tell), dict(D.named_modules())
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(f"tell={tell!r} names no layer, or one twice; tell='nothing' tells D nothing")
    for layer in layers:
        if layer not in names or not (has_weight(names[layer]) or first_layer(names[layer])):
            raise ValueError(
                f"tell={layer!r} is neither 'scale-shift' nor 'nothing' nor the name of a layer of "
                f"{type(D).__name__} with weights"
            )
        if hasattr(names[layer], "scale_shift"):
            raise ValueError(f"tell={layer!r} names a layer that tells another D its t; two D cannot share it")
    return layers


def _place_of_t(
    D: nn.Module,
    regularizer: InputRegularizer,
    inputs: Inputs,
    tell: str | Iterable[str] | None,
    t_argument: str | None,
) -> Place | None:
    """The parameter by which D is told t."""
    images = [image.name for image in inputs.places]
    if t_argument is not None:
        if tell is not None:
            raise ValueError(f"tell={tell!r} and t_argument={t_argument!r} are both given; D is told t in one way")
        place = inputs.parameter(t_argument)
        if place is None:
            raise ValueError(f"t_argument={t_argument!r} is no parameter of {type(D).__name__}.forward")
        if place.name in images:
            raise ValueError(f"t_argument={t_argument!r} is where the images of {type(D).__name__} are")
        return place
    if tell is not None or regularizer.noise is None:
        return None
    place = inputs.parameter("t")
    if place is not None and place.name not in images:
        return place
    remedy = "give D.forward a parameter t"
    if not regularizer.noise.per_channel:
        remedy = f"pass wrap(..., tell='scale-shift') before the optimiser is built, or {remedy}"
    warnings.warn(
        f"{type(D).__name__} is not told how far images are diffused, which did harm in our runs; {remedy}, or pass "
        f"tell='nothing' if this is meant",
        WrapWarning,
        stacklevel=3,
    )
    return None


def _inner(D: nn.Module) -> nn.Module:
    """What DataParallel, DistributedDataParallel, FSDP or the compiler holds."""
    while True:
        if hasattr(D, "_orig_mod"):
            D = D._orig_mod
        elif isinstance(D, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(D, "_fsdp_wrapped_module"):
            D = D.module
        else:
            return D


def _hook_of(D: nn.Module) -> Hook:
    hook = _inner(D)._forward_pre_hooks.get(_KEY) if isinstance(D, nn.Module) else None
    if hook is None:
        raise ValueError(f"D, a {type(D).__name__}, is not wrapped; call wrap(D, ...) first")
    return hook
