"""InputRegularizer: augmentation and noise in one pass; wrap: put it before a discriminator."""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .diffaugment import DiffAugment
from .diffusion_noise import DiffusionNoise, NoiseParams
from .ops import TransformParams, input_transform, random_words


class RegularizerParams(NamedTuple):
    """One draw of an InputRegularizer; a part is None where its module is absent or inactive."""

    augment: tuple[TransformParams, ...] | None
    noise: NoiseParams | None


class InputRegularizer(nn.Module):
    """DiffAugment, then DiffusionNoise, with the noise riding on the last pass of the augmentation.

    Equivalent to ``noise(augment(x))``. It acts in ``train()`` and in ``eval()``; set ``enabled = False`` to switch
    it off.

    Args:
        augment: a DiffAugment, or None.
        noise: a DiffusionNoise, or None.

    Raises:
        TypeError: an argument of another type.
    """

    def __init__(self, augment: DiffAugment | None = None, noise: DiffusionNoise | None = None) -> None:
        super().__init__()
        for name, module, kind in (("augment", augment, DiffAugment), ("noise", noise, DiffusionNoise)):
            if module is not None and not isinstance(module, kind):
                raise TypeError(f"{name} is a {type(module).__name__}; a {kind.__name__} or None is needed")
        self.augment = augment
        self.noise = noise
        self.enabled = True

    def sample(
        self, x: Tensor, t: int | Tensor | None = None, generator: torch.Generator | None = None
    ) -> RegularizerParams:
        """Draw the parameters for a batch like x; ``forward(x, params=...)`` replays them to the bit."""
        augment = self.augment if self.augment is not None and self.augment.active else None
        noise = self.noise if self.noise is not None and self.noise.active else None
        if augment is None or noise is None or noise.per_channel:
            return RegularizerParams(
                augment and augment.sample(x, generator), noise and noise.sample(x, t, generator=generator)
            )
        augment.check(x)
        words = random_words((augment.words + noise.words, x.shape[0]), x.device, generator)  # of both in one launch
        return RegularizerParams(
            augment.params_from(words[: augment.words], x), noise.params_from(words[augment.words :], t)
        )

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
        """
        if not self.enabled:
            params = RegularizerParams(None, None)
        elif params is None:
            params = self.sample(x, t, generator)
        passes, noise = params.augment or (), params.noise
        if passes and noise is not None and noise.seed.dim() == 1:
            # All of the last pass but its own noise fields, which come last and are empty; torch 2.4 cannot compile
            # _replace.
            passes = (*passes[:-1], TransformParams(*passes[-1][:-3], **noise.flat()))
            noise = None
        y = x
        for one_pass in passes:
            y = input_transform(y, one_pass)
        if noise is not None:
            y = self.noise(y, params=noise)
        if not return_t:
            return y
        if params.noise is not None:
            return y, params.noise.t
        per_channel = self.noise is not None and self.noise.per_channel
        return y, x.new_zeros(x.shape[: 1 + per_channel], dtype=torch.int64)


class RegularizedDiscriminator(nn.Module):
    """A discriminator behind an InputRegularizer; ``wrap`` builds it.

    Everything but its first argument passes through: further arguments, attributes and methods of D, read or set.
    ``state_dict`` has D's own keys, as without the wrapper, beside those of ``input_regularizer``.
    """

    def __init__(self, D: nn.Module, input_regularizer: InputRegularizer, t_argument: str | None) -> None:
        super().__init__()
        parameters = inspect.signature(D.forward).parameters
        self._input_name, *others = parameters or (None,)
        self._t_argument = t_argument if t_argument in others else None
        by_keyword = self._t_argument is None or parameters[t_argument].kind is inspect.Parameter.KEYWORD_ONLY
        self._t_position = None if by_keyword else others.index(t_argument)
        self.input_regularizer = input_regularizer
        self.discriminator = D

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not args:
            if self._input_name not in kwargs:
                raise TypeError(f"D got no input; pass the batch as the first argument or as {self._input_name}=")
            args = (kwargs.pop(self._input_name),)
        x, *others = args
        by_position = self._t_position is not None and self._t_position < len(others)
        given = others[self._t_position] if by_position else kwargs.get(self._t_argument)
        y, t = self.input_regularizer(x, given, return_t=True)
        if given is not None and self.input_regularizer.noise is None:
            t = given
        if by_position:
            others[self._t_position] = t
        elif self._t_argument is not None:
            kwargs[self._t_argument] = t
        return self.discriminator(y, *others, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # A protocol of Python's own, such as __deepcopy__, is about the wrapper.
            special = name.startswith("__") and name.endswith("__")
            if special or name == "discriminator" or "discriminator" not in self.__dict__.get("_modules", ()):
                raise
            return getattr(self.discriminator, name)

    def __setattr__(self, name: str, value: Any) -> None:
        modules = self.__dict__.get("_modules", {})
        own = name in self.__dict__ or name in modules or hasattr(type(self), name)
        if not own and "discriminator" in modules and hasattr(self.discriminator, name):
            setattr(self.discriminator, name, value)
        else:
            super().__setattr__(name, value)

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:
        state_dict = super().state_dict(*args, prefix=prefix, **kwargs)
        inner = f"{prefix}discriminator."
        for key in [key for key in state_dict if key.startswith(inner)]:
            state_dict[prefix + key.removeprefix(inner)] = state_dict.pop(key)
        return state_dict

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = f"{prefix}input_regularizer."
        inner = [key for key in state_dict if key.startswith(prefix) and not key.startswith(own)]
        # All are taken out before any goes in: D's names may begin with "discriminator." themselves.
        values = [state_dict.pop(key) for key in inner]
        for key, value in zip(inner, values, strict=True):
            state_dict[f"{prefix}discriminator.{key.removeprefix(prefix)}"] = value
        super()._load_from_state_dict(state_dict, prefix, *args)


def wrap(D: nn.Module, *regularizers: nn.Module, t_argument: str | None = "t") -> RegularizedDiscriminator:
    """Put regularizers before a discriminator::

        D = wrap(D, DiffAugment(), DiffusionNoise())

    The regularizers move to the device of D. Methods of D other than its call see images as they are. Wrap before
    DistributedDataParallel and ``torch.compile``. ``D.input_regularizer.enabled = False`` shows D clean images,
    ``D.discriminator`` is what was wrapped.

    Args:
        D: the discriminator; its first argument is the batch of images.
        regularizers: a DiffAugment, a DiffusionNoise, or one of each, or one InputRegularizer.
        t_argument: if ``D.forward`` has a parameter of this name, D is told t by it, int64 [N]; a t that the caller
            passes there is the one that the noise takes, or, without a DiffusionNoise, goes to D as it is. None: D is
            never told t.

    Raises:
        TypeError: D is no module, or a regularizer is of another type.
        ValueError: D is, or holds, a wrapped discriminator, or is already parallel or compiled; no regularizer, or two
            of one kind.
    """
    if not isinstance(D, nn.Module):
        raise TypeError(f"D is a {type(D).__name__}; wrap takes the discriminator, a torch.nn.Module")
    if isinstance(D, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(D, "_orig_mod"):  # compiled
        raise ValueError(f"D is already inside {type(D).__name__}; wrap the discriminator first, then what runs it")
    if any(isinstance(module, RegularizedDiscriminator) for module in D.modules()):
        raise ValueError(f"D, a {type(D).__name__}, is wrapped already; wrap D.discriminator instead")
    regularizer = _combine(regularizers)
    if (parameter := next(D.parameters(), None)) is not None:
        regularizer.to(parameter.device)
    return RegularizedDiscriminator(D, regularizer, t_argument)


def _combine(regularizers: tuple[nn.Module, ...]) -> InputRegularizer:
    if len(regularizers) == 1 and isinstance(regularizers[0], InputRegularizer):
        return regularizers[0]
    chosen: dict[str, nn.Module] = {}
    for module in regularizers:
        if not isinstance(module, DiffAugment | DiffusionNoise):
            raise TypeError(
                f"wrap got a {type(module).__name__}; it takes a DiffAugment, a DiffusionNoise, one of each, or one "
                f"InputRegularizer"
            )
        part = "augment" if isinstance(module, DiffAugment) else "noise"
        if part in chosen:
            raise ValueError(f"wrap got two modules of type {type(module).__name__}; one is needed")
        chosen[part] = module
    if not chosen:
        raise ValueError("wrap got no regularizer; pass a DiffAugment, a DiffusionNoise or both")
    return InputRegularizer(**chosen)
