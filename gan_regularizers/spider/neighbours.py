"""Friendly neighbours: which of some data sets lies nearest to another, by the signed inception distance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .distance import SIDCurve, signed_inception_distance

CERTAIN = 2.0  # standard errors


@dataclass(frozen=True)
class Neighbour:
    """A candidate data set beside the target.

    Attributes:
        name: of the candidate.
        count: its images.
        curve: its signed inception distance from the target.
    """

    name: str
    count: int
    curve: SIDCurve

    @property
    def verdict(self) -> str:
        """The sign of CSID in words."""
        if abs(self.curve.csid) <= CERTAIN * self.curve.csid_standard_error:
            return "no difference seen"
        return "more spread, or shifted" if self.curve.csid > 0 else "less diverse"


def friendly_neighbours(
    target: Tensor | np.ndarray, sources: Mapping[str, Tensor | np.ndarray], *, seed: int = 0, **settings: Any
) -> list[Neighbour]:
    """Rank data sets by ``|CSID|`` from the target: the friendliest neighbour has the least and comes first.

    Args:
        target: features [M, d] of the images to be generated.
        sources: features [N, d] of each candidate, by name; ``features.extract`` gives them for a folder or zip.
        seed: of the subsets and points, which are the same for all candidates.
        settings: of ``signed_inception_distance``.

    Raises:
        TypeError: as ``signed_inception_distance``; the message begins with the candidate's name.
        ValueError: the same.
    """
    neighbours = []
    for name, features in sources.items():
        generator = torch.Generator().manual_seed(seed)
        try:
            curve = signed_inception_distance(features, target, **settings, generator=generator)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
        neighbours.append(Neighbour(name, len(features), curve))
    return sorted(neighbours, key=lambda neighbour: abs(neighbour.curve.csid))
