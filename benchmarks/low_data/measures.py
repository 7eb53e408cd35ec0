"""How good generated images are, by features [N, d]; real and generated sets are compared at equal N."""

import warnings

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from gan_regularizers.commands.demo.kid import kid_x1000

NEAREST = 3  # neighbours that set the radius of a manifold


def compare(generated: Tensor, held_out: Tensor, train: Tensor) -> dict[str, float]:
    """All measures of generated images; lower is better for kid and fd, higher for precision and recall.

    ``copied`` is about 0.5 for images near the data, if they are no nearer to the training set than to unseen ones, and
    1 for copies; less for copies where there are more training than held-out images, since only as many count.
    ``diversity`` is 1 for samples as far from each other as real images are, and about a third for one image.
    """
    return {
        "kid": kid_x1000(generated, held_out),
        "fd": frechet_distance(generated, held_out),
        "precision": share_within(generated, held_out),
        "recall": share_within(held_out, generated),
        "copied": share_nearer(generated, train, held_out),
        "diversity": distance_within(generated) / distance_within(held_out),
    }


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """FD-lite0, by torchmetrics. It shrinks as N grows."""
    features = nn.Identity()
    features.num_features = first.shape[1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all")
        metric = FrechetInceptionDistance(features, sync_on_compute=False).set_dtype(torch.float64)
        metric.update(first.double(), real=True)
        metric.update(second.double(), real=False)
        return metric.compute().item()


def share_within(points: Tensor, manifold: Tensor) -> float:
    """Share of points that lie within the radius of some point of the manifold, which is the distance to its third
    neighbour: precision for generated points and a real manifold, recall the other way round (Kynkäänniemi et al.,
    2019, Eq. 1 and 2).
    """
    radii = NearestNeighbors(n_neighbors=NEAREST).fit(manifold).kneighbors()[0][:, -1]  # of a point, without itself
    return (
        (torch.cdist(points.double(), manifold.double()) <= torch.from_numpy(radii)).any(dim=1).double().mean().item()
    )


def share_nearer(points: Tensor, first: Tensor, second: Tensor) -> float:
    """Share of points whose nearest neighbour is in the first set, both cut to the size of the smaller one."""
    size = min(len(first), len(second))
    distances = [NearestNeighbors(n_neighbors=1).fit(part[:size]).kneighbors(points)[0] for part in (first, second)]
    return float((distances[0] < distances[1]).mean())


def distance_within(points: Tensor) -> float:
    """The mean distance between two of the points."""
    return torch.pdist(points.double()).mean().item()
