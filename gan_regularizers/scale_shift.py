"""Tell a discriminator t by scaling and shifting what its first layer returns (as FiLM does; Perez et al., 2018)."""

from typing import Any

from torch import Tensor, nn

from .diffusion_noise import timestep_embedding
from .recomputation import Remembered, backward_pass, runs_again

_EMBEDDING_DIM = 64


class ScaleShift(nn.Module):
    """h -> (1 + scale(t)) h + shift(t), by channel; scale and shift are 0 at the start.

    Args:
        channels: of h.
        channel_dim: 1 for feature maps [N, C, ...], -1 for features [N, ..., C].
    """

    def __init__(self, channels: int, channel_dim: int) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.embed = nn.Linear(_EMBEDDING_DIM, _EMBEDDING_DIM)
        self.modulate = nn.Linear(_EMBEDDING_DIM, 2 * channels)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        self._t: Tensor | None = None
        self._told_in, self._lasts = -1, False
        self._remembered = Remembered()

    @classmethod
    def of(cls, layer: nn.Module) -> "ScaleShift":
        """One for the output of a layer, on its device and of its dtype."""
        weight = layer.weight
        if isinstance(weight, nn.parameter.UninitializedTensorMixin):
            raise ValueError(
                f"D's first layer, a {type(layer).__name__}, does not know its sizes yet; call D once before wrap"
            )
        dense = weight.dim() == 2
        transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        channels = weight.shape[1] * layer.groups if transposed else weight.shape[0]
        return cls(channels, -1 if dense else 1).to(weight.device, weight.dtype)

    def tell(self, t: Tensor, lasts: bool = True) -> None:
        """Set t, int64 [N], for the layer's next output; lasts: whether the layer may run again in a backward pass."""
        self._t, self._told_in, self._lasts = t, backward_pass(), lasts

    def forward(self, h: Tensor) -> Tensor:
        """Scale and shift h, whose samples are those of the t that was told."""
        if self._t is None:
            raise RuntimeError("the first layer of D ran before D was ever called, so it knows no t; call D(x)")
        # A layer that runs again in the backward pass has another t than the last call of D.
        t = self._t if self._told_in == backward_pass() else None
        if self._lasts or runs_again():
            t = self._remembered(t, h.device)
        if t is None:
            raise RuntimeError(
                "D's first layer ran again in a backward pass, and torch's generator is not as it was in the forward; "
                "leave activation checkpointing's preserve_rng_state on"
            )
        if t.shape != h.shape[:1]:
            raise RuntimeError(
                f"D's first layer with weights returned {list(h.shape)} for a batch of {len(t)}; with "
                f"tell='scale-shift' it must take the batch as D gets it. Give D.forward a parameter t instead"
            )
        hidden = nn.functional.silu(self.embed(timestep_embedding(t, _EMBEDDING_DIM).to(self.embed.weight.dtype)))
        scale, shift = self.modulate(hidden).chunk(2, dim=1)
        shape = [t.shape[0], *[1] * (h.dim() - 1)]
        shape[self.channel_dim] = -1
        return h * (1 + scale.view(shape)) + shift.view(shape)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_t": None}


def first_layer(D: nn.Module) -> str | None:
    """The name of D's first layer with weights, in the order in which they were built; None where it has none."""
    for name, module in D.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) or not isinstance(weight, Tensor):
            continue
        if isinstance(weight, nn.parameter.UninitializedTensorMixin) or weight.dim() >= 2:
            return name
    return None
