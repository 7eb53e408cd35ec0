"""A discriminator that is told t as Diffusion-GAN's code tells it: by the number itself."""

from torch import Tensor, nn
from torch.nn import functional as F

from gan_regularizers.commands.demo.networks import EMBEDDING_DIM, Discriminator


class RawT(Discriminator):
    """The demo's D, whose logit is its features' product with a linear map of t of unit second moment.

    This is how StyleGAN2's D takes labels, beside which the number t stands there. The map of t = 1 is nearly that of
    t = 500, so it tells hardly more than whether an image is noisy.
    """

    def __init__(self, resolution: int, width: int = 1) -> None:
        super().__init__(resolution, width)
        self.logit = nn.Linear(self.logit.in_features, EMBEDDING_DIM)
        self.embed = nn.Linear(1, EMBEDDING_DIM)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        t = x.new_zeros(len(x)) if t is None else t
        embedded = F.rms_norm(self.embed(t[:, None].to(x.dtype)), (EMBEDDING_DIM,))
        features = super().forward(x)  # by t = 0
        return (features * embedded).sum(dim=1, keepdim=True) / EMBEDDING_DIM**0.5
