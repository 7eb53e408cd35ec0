"""The signed inception distance as a metric of torchmetrics, which this module needs."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from .distance import RADII, as_features, signed_inception_distance


class SignedInceptionDistance(Metric):
    """``signed_inception_distance`` of generated from real images, gathered batch by batch and over all processes.

    As with torchmetrics' ``KernelInceptionDistance`` all features are kept, and ``compute`` is the same on every
    process: its subsets and points follow from ``seed``. Not differentiable.

    Args:
        features: maps a batch of images, as it is given to ``update``, to features [N, d]; such as
            ``features.Lite0Features()``. By default the batches are features themselves.
        order: as in ``signed_inception_distance``, like all up to ``n_subsets``.
        polyharmonic: as there.
        radii: as there.
        n_centers: as there.
        n_points: as there.
        n_subsets: as there.
        seed: of the subsets and points.
        kwargs: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    real_features: list[Tensor]
    fake_features: list[Tensor]

    def __init__(
        self,
        features: Callable[[Tensor], Tensor] | None = None,
        *,
        order: float = 1,
        polyharmonic: bool = False,
        radii: Iterable[float] = RADII,
        n_centers: int | None = None,
        n_points: int = 500,
        n_subsets: int = 20,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.settings = {
            "order": order,
            "polyharmonic": polyharmonic,
            "radii": tuple(radii),
            "n_centers": n_centers,
            "n_points": n_points,
            "n_subsets": n_subsets,
        }
        self.seed = seed
        self.add_state("real_features", default=[], dist_reduce_fx="cat")
        self.add_state("fake_features", default=[], dist_reduce_fx="cat")

    def update(self, real: Tensor | None = None, fake: Tensor | None = None) -> None:
        """Take in a batch of real images, of generated ones, or both; they need not be as many.

        With several processes, each must take in a batch of either. Nothing is differentiated.

        Args:
            real: images, as the network takes them, or features [N, d] where there is none.
            fake: the same of generated ones.
        """
        both = (self.real_features, self.fake_features)
        for batch, kept, other in zip((real, fake), both, both[::-1], strict=True):
            if batch is not None:
                features = (self.features(batch) if self.features is not None else batch).detach()
                kept.append(features)
                other.append(features[:0])  # a process that has none of them gathers something of the same shape

    def compute(self) -> dict[str, Tensor]:
        """The distance of the generated images from the real ones so far, over all processes.

        Returns:
            ``csid`` and ``csid_standard_error``, scalars, and ``sid``, ``standard_errors``, ``radii`` and
            ``half_widths``, [R]: the attributes of ``SIDCurve``, in float64.

        Raises:
            ValueError: fewer than two of either, or as ``signed_inception_distance``.
        """
        sets = {"fake": self.fake_features, "real": self.real_features}
        features = {name: dim_zero_cat(kept) if len(kept) else torch.empty(0, 1) for name, kept in sets.items()}
        fake, real = (as_features(name, values) for name, values in features.items())
        generator = torch.Generator().manual_seed(self.seed)
        curve = signed_inception_distance(fake, real, **self.settings, generator=generator)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in vars(curve).items()}
