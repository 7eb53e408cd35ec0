"""Where the images are among the arguments of a discriminator's call."""

import copy
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

_PLACE = re.compile(r"(\w+)((?:\[[^\[\]]+\])*)")  # such as img[image]

Transform = Callable[[Tensor], Tensor]


class Place(NamedTuple):
    """An argument, or a place inside one."""

    name: str | None  # of the parameter; None for one of *args
    position: int | None  # None for one that is given by name only
    path: tuple[str, ...] = ()  # keys of dictionaries, indices of lists and tuples
    by_position_only: bool = False

    def value(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call gives for the parameter; None where it gives nothing."""
        if self.position is not None and self.position < len(args):
            return args[self.position]
        return kwargs.get(self.name)

    def put(self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with another value for the parameter."""
        if self.position is not None and (self.position < len(args) or self.by_position_only or self.name is None):
            if self.position > len(args):
                raise TypeError(f"{self.name} is given by position only, and what stands before it was left out")
            return (*args[: self.position], value, *args[self.position + 1 :]), kwargs
        return args, {**kwargs, self.name: value}

    def __str__(self) -> str:
        return (self.name or f"argument {self.position}") + "".join(f"[{key}]" for key in self.path)


class Inputs:
    """Those arguments of D that are images.

    Args:
        D: the discriminator, whose ``forward`` has the parameters.
        inputs: one or several of them by name or position, or places inside, such as ``"img[image]"``; None for the
            first.

    Raises:
        TypeError: inputs is nothing of this kind.
        ValueError: D has no such parameter.
    """

    def __init__(self, D: nn.Module, inputs: str | int | Iterable[str | int] | None) -> None:
        self._D_name = type(D).__name__
        self._parameters, self._anything = _parameters(D)
        self._positional = {p.position: p for p in self._parameters.values() if p.position is not None}
        self.told = inputs is not None
        if inputs is None:
            self.places = (next(iter(self._parameters.values()), Place(None, 0)),)
            return
        several = (inputs,) if isinstance(inputs, str | int) else tuple(inputs)
        self.places = tuple(self._place(one) for one in several)
        if not self.places:
            raise ValueError("inputs is empty; leave it out for D's first argument")
        for i, place in enumerate(self.places):
            for other in self.places[i + 1 :]:
                depth = min(len(place.path), len(other.path))
                same = (place.name, place.position) == (other.name, other.position)
                if same and place.path[:depth] == other.path[:depth]:
                    raise ValueError(f"inputs has {place} and {other}, one place twice; an image is regularised once")

    def parameter(self, name: str) -> Place | None:
        """A parameter of D; None where it has none of this name."""
        return self._parameters.get(name)

    def transform(
        self, f: Transform, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with f applied to each image; what the caller holds is left as it was.

        Raises:
            TypeError: there is none.
            ValueError: nobody said which of D's arguments are images, and more than the first looks like one.
        """
        found = False
        for place in self.places:
            value = place.value(args, kwargs)
            if value is None:
                continue
            if not self.told:
                self._check_others(place, value, args, kwargs)
            args, kwargs = place.put(_transformed(value, place.path, f, str(place)), args, kwargs)
            found = True
        if not found:
            names = " or ".join(f"{place}=" for place in self.places)
            raise TypeError(
                f"{self._D_name} got no input; pass the batch as the first argument or as {names}"
                if not self.told
                else f"{self._D_name} got none of its inputs {names}"
            )
        return args, kwargs

    @property
    def first(self) -> bool:
        """Whether the images are D's first argument as a whole."""
        return len(self.places) == 1 and self.places[0].position == 0 and not self.places[0].path

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise ValueError where nobody said which arguments are images, and more than the first looks like one."""
        if not self.told:
            self._check_others(self.places[0], self.places[0].value(args, kwargs), args, kwargs)

    def single(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call has one image and no more."""
        return (
            len(self.places) == 1 and not self.places[0].path and isinstance(self.places[0].value(args, kwargs), Tensor)
        )

    def _place(self, one: str | int) -> Place:
        if isinstance(one, bool) or not isinstance(one, str | int):
            raise TypeError(
                f"inputs has {one!r}; names of D's parameters, their positions, or places like 'img[image]' are needed"
            )
        if isinstance(one, int):
            if one in self._positional:
                return self._positional[one]
            if one >= 0 and self._anything:
                return Place(None, one)
        elif (match := _PLACE.fullmatch(one)) is None:
            raise ValueError(f"inputs={one!r} is no name of a parameter, nor a place such as 'img[image]' or 'imgs[0]'")
        else:
            name, path = match[1], tuple(re.findall(r"\[([^\[\]]+)\]", match[2]))
            place = self._parameters.get(name) or (Place(name, None) if self._anything else None)
            if place is not None:
                return place._replace(path=path)
        raise ValueError(
            f"inputs={one!r} is no parameter of {self._D_name}.forward; it has {', '.join(self._parameters) or 'none'}"
        )

    def _check_others(self, first: Place, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        images = _images(value)
        if not images:
            return
        rank = max(3, images[0].dim())
        others = [(self._positional.get(i, Place(None, i)), other) for i, other in enumerate(args)]
        others += [(self._parameters.get(name, Place(name, None)), other) for name, other in kwargs.items()]
        for place, other in others:
            if place == first:
                continue
            if any(leaf.dim() >= rank and leaf.shape[0] == images[0].shape[0] for leaf in _images(other)):
                what = "both look" if images[0].dim() == rank else "the latter looks"
                one, two = (repr(given.name or given.position) for given in (first, place))
                raise ValueError(
                    f"{self._D_name} got {first} and {place}, and {what} like images; say which the regularizers are "
                    f"for: wrap(D, ..., inputs={one}) or inputs={two} for one alone, inputs=({one}, {two}) for "
                    f"both under one draw"
                )


def _parameters(D: nn.Module) -> tuple[dict[str, Place], bool]:
    """The named parameters of ``D.forward``, and whether it takes others."""
    places, anything, position = {}, False, 0
    for name, parameter in inspect.signature(D.forward).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            anything = True
        elif parameter.kind is parameter.KEYWORD_ONLY:
            places[name] = Place(name, None)
        else:
            places[name] = Place(name, position, by_position_only=parameter.kind is parameter.POSITIONAL_ONLY)
            position += 1
    return places, anything


def _leaves(value: Any) -> list[Tensor]:
    """The floating tensors in a value."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [leaf for part in parts for leaf in _leaves(part)]


def _images(value: Any) -> list[Tensor]:
    """The floating tensors of the highest rank in a value: in some dictionaries a label lies beside the images."""
    leaves = _leaves(value)
    rank = max([0, *[leaf.dim() for leaf in leaves]])
    return [leaf for leaf in leaves if leaf.dim() == rank]


def _transformed(value: Any, path: tuple[str, ...], f: Transform, name: str) -> Any:
    if path:
        key, *rest = path
        try:
            key = key if isinstance(value, dict) and key in value else int(key)
            part = value[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise TypeError(f"D got no {name}: there is no {key!r} in a {type(value).__name__}") from None
        return _with_parts(value, {key: _transformed(part, tuple(rest), f, name)})
    if isinstance(value, Tensor):
        return f(value)
    images = _images(value)
    if not images:
        raise TypeError(f"{name} is a {type(value).__name__} without a floating-point tensor; images are needed")
    return _mapped(value, f, images[0].dim())


def _mapped(value: Any, f: Transform, rank: int) -> Any:
    if isinstance(value, Tensor):
        return f(value) if value.is_floating_point() and value.dim() == rank else value
    if isinstance(value, dict):
        return _with_parts(value, {key: _mapped(part, f, rank) for key, part in value.items()})
    if isinstance(value, (list, tuple)):
        return _with_parts(value, {i: _mapped(part, f, rank) for i, part in enumerate(value)})
    return value


def _with_parts(value: Any, parts: dict[Any, Any]) -> Any:
    """A copy of a dictionary, list or tuple with other parts."""
    if isinstance(value, tuple):
        items = [parts.get(i, item) for i, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    changed = copy.copy(value)
    for key, part in parts.items():
        changed[key] = part
    return changed
