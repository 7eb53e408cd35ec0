"""Tell a discriminator t by scaling and shifting what its first layer returns (as FiLM does; Perez et al., 2018)."""

from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion_noise import timestep_embedding
from ..state.recomputation import Remembered, backward_pass, runs_again

_EMBEDDING_DIM = 64


class ScaleShift(nn.Module):
    """h -> (1 + scale(t)) h + shift(t), by channel; scale and shift are 0 at the start.

    Its weights are parameters of its own rather than of layers, which codebases find by their class to initialise or
    normalise all of them alike; that would not leave the start as it is.

    Args:
        channels: of h.
        channel_dim: 1 for feature maps [N, C, ...], -1 for features [N, ..., C].
    """

    def __init__(self, channels: int, channel_dim: int) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.embed_weight = nn.Parameter(torch.empty(_EMBEDDING_DIM, _EMBEDDING_DIM))
        self.embed_bias = nn.Parameter(torch.empty(_EMBEDDING_DIM))
        self.modulate_weight = nn.Parameter(torch.empty(2 * channels, _EMBEDDING_DIM))
        self.modulate_bias = nn.Parameter(torch.empty(2 * channels))
        self.reset_parameters()
        self._t: Tensor | None = None
        self._told_in = -1
        self._ran = False
        self._remembered = Remembered()

    @classmethod
    def of(cls, layer: nn.Module) -> "ScaleShift":
        """One for the output of a layer, on its device and of its dtype; the layer may use the weights of one in it."""
        if not has_weight(layer):
            layer = layer.get_submodule(first_layer(layer))
        weight = layer.weight
        if isinstance(weight, nn.parameter.UninitializedTensorMixin):
            raise ValueError(
                f"D's first layer, a {type(layer).__name__}, does not know its sizes yet; call D once before wrap"
            )
        transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        channels = weight.shape[1] * layer.groups if transposed else weight.shape[0]
        return cls(channels, -1 if weight.dim() == 2 else 1).to(weight.device, weight.dtype)

    def reset_parameters(self) -> None:
        """Draw the embedding's weights as those of ``nn.Linear``, and put scale and shift to 0."""
        bound = _EMBEDDING_DIM**-0.5
        for parameter in (self.embed_weight, self.embed_bias):
            nn.init.uniform_(parameter, -bound, bound)
        for parameter in (self.modulate_weight, self.modulate_bias):
            nn.init.zeros_(parameter)

    def tell(self, t: Tensor) -> None:
        """Set t, int64 [N], for the outputs of this call of D."""
        self._t, self._told_in, self._ran = t, backward_pass(), False

    def end(self) -> bool:
        """End a call of D; return whether the layer ran in it."""
        self._t = None
        return self._ran

    def forward(self, h: Tensor) -> Tensor:
        """Scale and shift h, whose samples are those of the t that was told; outside of a call of D by t = 0."""
        self._ran = True
        channels = self.modulate_bias.shape[0] // 2
        if not isinstance(h, Tensor) or h.dim() < 2 or h.shape[self.channel_dim] != channels:
            got = list(h.shape) if isinstance(h, Tensor) else f"a {type(h).__name__}"
            raise RuntimeError(
                f"D's layer for t returned {got}, where {channels} channels were expected; name another layer, "
                f"tell=('NAME',), or give D.forward a parameter t"
            )
        t = self._t_of(h)
        if t.shape[0] != h.shape[0]:
            raise RuntimeError(
                f"D's layer for t returned {list(h.shape)} for a batch of {t.shape[0]}; with tell='scale-shift' it "
                f"must take the batch as D gets it. Give D.forward a parameter t instead"
            )
        embedding = timestep_embedding(t, _EMBEDDING_DIM).to(self.embed_weight.dtype)
        hidden = nn.functional.silu(nn.functional.linear(embedding, self.embed_weight, self.embed_bias))
        modulation = nn.functional.linear(hidden, self.modulate_weight, self.modulate_bias).to(h.dtype)
        shape = [t.shape[0], *[1] * (h.dim() - 1)]
        shape[self.channel_dim] = modulation.shape[1] // 2
        scale, shift = (part.view(shape) for part in modulation.chunk(2, dim=1))
        return h * (1 + scale) + shift

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_t": None}

    def _t_of(self, h: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return h.new_zeros(h.shape[0], dtype=torch.int64) if self._t is None else self._t
        # A layer that runs again in the backward pass has another t than the last call of D.
        told = self._t is not None and self._told_in == backward_pass()
        t = self._t if told else None
        if t is None and not runs_again():
            t = h.new_zeros(h.shape[0], dtype=torch.int64)
        t = self._remembered(t, h.device)
        if t is None:
            raise RuntimeError(
                "D's first layer ran again in a backward pass, and torch's generator is not as it was in the forward; "
                "leave activation checkpointing's preserve_rng_state on"
            )
        return t


def has_weight(layer: nn.Module) -> bool:
    """Whether a layer has a weight itself, as most have."""
    return isinstance(getattr(layer, "weight", None), Tensor)


def first_layer(D: nn.Module) -> str | None:
    """The name of D's first layer with weights, in the order in which they were built; None where it has none."""
    for name, module in D.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) or not has_weight(module):
            continue
        weight = module.weight
        if isinstance(weight, nn.parameter.UninitializedTensorMixin) or weight.dim() >= 2:
            return name
    return None
