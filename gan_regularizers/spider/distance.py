"""The signed inception distance (Spider GAN, arXiv 2305.07613, section 3): how a set of features lies about another."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..settings import number, whole_number

RADII = tuple(range(1, 51))
_BLOCK = 2**19  # distances at a time

# From centers, in blocks [K, d], their mean kernel to x, over x uniform in each cube about 0: [R].
_Potential = Callable[[Iterable[Tensor]], Tensor]


@dataclass(frozen=True)
class SIDCurve:
    """The signed inception distance of a source from a target, over cubes of growing width.

    Attributes:
        radii: r of each cube.
        half_widths: of each cube, 0.25 r times the mean over dimensions of the target's standard deviation.
        sid: SID_r. Positive: the source is spread wider than the target, or shifted from it. Negative: it lies closer
            about the target's mean, so it is less diverse.
        standard_errors: of ``sid``.
        csid: the cumulative distance, the sum of ``sid``.
        csid_standard_error: of ``csid``.
    """

    radii: tuple[float, ...]
    half_widths: tuple[float, ...]
    sid: tuple[float, ...]
    standard_errors: tuple[float, ...]
    csid: float
    csid_standard_error: float


def signed_inception_distance(
    source: Tensor | np.ndarray,
    target: Tensor | np.ndarray,
    *,
    order: float = 1,
    polyharmonic: bool = False,
    radii: Iterable[float] = RADII,
    n_centers: int | None = None,
    n_points: int = 500,
    n_subsets: int = 20,
    generator: torch.Generator | None = None,
) -> SIDCurve:
    """SID_r = E[phi(x - s)] - E[phi(x - t)], for x uniform in a cube about the target's mean, s in source, t in target.

    phi grows with the distance: ||.||^order for a positive order, -||.||^order for a negative one. The distance is no
    metric: it is signed, not symmetric, and zero for sets that are equal in distribution (not only for these).

    It is the mean over subsets of both sets and of the points x, and unbiased for the two sets of features as they are.
    Orders 2 and 4 (not polyharmonic) are integrated over the cube in closed form, without points. All arithmetic is in
    float64, on the features' device, and in blocks, so that large sets need little memory beside their own.

    Args:
        source: features [N, d] of generated images or of a candidate data set, of any floating dtype, all finite.
        target: features [M, d] of the real images.
        order: exponent of the kernel, above -d and not 0; the reference code uses 1, -1, -3 and -5. At -d / 2 and below
            the mean over points has no finite variance, so its standard error says little.
        polyharmonic: the paper's kernel of order 2m - d for a whole m >= 1, that is ||.||^order ln||.|| where the order
            is not negative and d is even; 0 is then allowed.
        radii: r of each cube.
        n_centers: features of each set in a subset, at most what the smaller set has. By default 1 / n_subsets of each
            set, so that all are used, and once where the numbers divide; the standard error then holds for other
            features of the same two distributions too. With more, subsets overlap, and it holds for these features.
        n_points: x in a subset. The same ones serve all radii and both sets.
        n_subsets: at least 2.
        generator: of the subsets and points; on its own device, by default torch's on that of the features.

    Raises:
        TypeError: something else than arrays or tensors, or a setting that is no number.
        ValueError: fewer than two features, other dimensions, a number that is not finite, a target whose features are
            all equal, or a setting out of range.
    """
    source, target = as_features("source", source), as_features("target", target)
    d = target.shape[1]
    if source.shape[1] != d:
        raise ValueError(f"source has features of {source.shape[1]} numbers, target of {d}; take both from one network")
    source = source.to(target.device)
    radii = tuple(number("radii", r, "(0, inf)") for r in radii)
    if not radii:
        raise ValueError("radii is empty; give at least one r")
    kernel = _kernel(order, polyharmonic, d)
    n_points = whole_number("n_points", n_points, "[1, inf)")
    n_subsets = whole_number("n_subsets", n_subsets, "[2, inf)")
    if n_centers is not None:
        n_centers = whole_number("n_centers", n_centers, f"[1, {min(len(source), len(target))}]")

    mean, deviation = _mean_and_deviation(target)
    if deviation == 0:
        raise ValueError("target has features that are all equal, so there is no cube about them; give varied images")
    half_widths = [0.25 * r * deviation for r in radii]
    device = generator.device if generator is not None else target.device
    rows_at_once = min(1024, max(1, _BLOCK // n_points))

    def subsets(features: Tensor) -> Iterator[Iterator[Tensor]]:
        size = n_centers or math.ceil(len(features) / n_subsets)
        for index in _subsets(len(features), size, n_subsets, generator, device):
            yield (features[rows].double() - mean for rows in index.to(features.device).split(rows_at_once))

    rows = []
    for source_centers, target_centers in zip(subsets(source), subsets(target), strict=True):
        if closed := None if polyharmonic else _CLOSED_FORMS.get(order):
            potential = _in_closed_form(closed, half_widths, d)
        else:
            points = torch.rand(n_points, d, generator=generator, dtype=torch.float64, device=device)
            potential = _at_points(kernel, (2 * points - 1).to(target.device), half_widths)
        rows.append(potential(source_centers) - potential(target_centers))
    sid = torch.stack(rows).cpu()

    csid = sid.sum(1)
    return SIDCurve(
        radii,
        tuple(half_widths),
        tuple(sid.mean(0).tolist()),
        tuple(_standard_error(sid).tolist()),
        csid.mean().item(),
        _standard_error(csid).item(),
    )


def as_features(name: str, value: Any) -> Tensor:
    """Features [N, d] as a tensor; the errors are those of ``signed_inception_distance``."""
    if not isinstance(value, Tensor | np.ndarray):
        raise TypeError(f"{name} is a {type(value).__name__}; give a tensor or array of features [N, d]")
    features = torch.as_tensor(value).detach()
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"{name} has shape {list(features.shape)} and {features.dtype}; give floats [N, d]")
    if len(features) < 2 or features.shape[1] == 0:
        raise ValueError(f"{name} has shape {list(features.shape)}; at least 2 features of 1 number are needed")
    bad = sum(int((~rows.isfinite().all(1)).sum()) for rows in features.split(4096))
    if bad:
        raise ValueError(f"{name} has NaN or infinity in {bad} of {len(features)} features; leave those out")
    return features


def _kernel(order: float, polyharmonic: bool, d: int) -> Callable[[Tensor], Tensor]:
    """Phi as a function of the squared distance."""
    order = number("order", order, "(-inf, inf)")
    if order <= -d:
        raise ValueError(f"order={order:g} has no finite mean over a cube in {d} dimensions; give more than {-d}")
    if polyharmonic and (order + d) % 2:
        raise ValueError(f"order={order:g} is not 2m - {d}, as polyharmonic kernels have it; try {order + 1:g}")
    if polyharmonic and order >= 0 and d % 2 == 0:
        return lambda squared: 0.5 * squared.pow(order / 2) * squared.log()
    if order == 0:
        raise ValueError(
            "order=0 makes the kernel constant; give another order, or polyharmonic=True in even dimensions"
        )
    sign = math.copysign(1.0, order)
    return lambda squared: sign * squared.pow(order / 2)


# Mean of ||u - v||^order over u uniform in the cube of half-width h, less what does not depend on v, from ||v||^2.
_CLOSED_FORMS: dict[float, Callable[[Tensor, float, int], Tensor]] = {
    2: lambda squared, h, d: squared,  # noqa: ARG005
    4: lambda squared, h, d: squared.square() + (2 * d + 4) / 3 * h**2 * squared,
}


def _in_closed_form(closed: Callable[[Tensor, float, int], Tensor], half_widths: list[float], d: int) -> _Potential:
    def potential(centers: Iterable[Tensor]) -> Tensor:
        squared = torch.cat([block.square().sum(1) for block in centers])
        return torch.stack([closed(squared, h, d).mean() for h in half_widths])

    return potential


def _at_points(kernel: Callable[[Tensor], Tensor], points: Tensor, half_widths: list[float]) -> _Potential:
    """With the mean over points [P, d], given in (-1, 1), in place of that over the cube.

    ||h u - v||^2 = h^2 ||u||^2 - 2 h u.v + ||v||^2, so one product u.v serves all cubes.
    """
    points_squared = points.square().sum(1)

    def potential(centers: Iterable[Tensor]) -> Tensor:
        total, count = points.new_zeros(len(half_widths)), 0
        for block in centers:
            products, squared = block @ points.T, block.square().sum(1, keepdim=True)
            for i, h in enumerate(half_widths):
                distances = torch.add(squared + h**2 * points_squared, products, alpha=-2 * h)
                total[i] += kernel(distances.clamp_(min=torch.finfo(distances.dtype).tiny)).sum()
            count += len(block)
        return total / (count * len(points))

    return potential


def _subsets(
    count: int, size: int, n_subsets: int, generator: torch.Generator | None, device: torch.device
) -> Iterator[Tensor]:
    """Indices for each subset, off one shuffled pack after the other; none twice in a subset of at most count."""
    pack = torch.empty(0, dtype=torch.int64, device=device)
    for _ in range(n_subsets):
        if len(pack) < size:
            shuffled = torch.randperm(count, generator=generator, device=device)
            # What is left of the old pack comes first, and again only at the end of the new one.
            pack = torch.cat([pack, shuffled[~torch.isin(shuffled, pack)], pack])
        yield pack[:size]
        pack = pack[size:]


def _mean_and_deviation(features: Tensor) -> tuple[Tensor, float]:
    """The mean [d], and the mean over dimensions of the standard deviation, in float64."""
    means, deviations = [], []
    for columns in features.split(64, dim=1):
        deviation, mean = torch.std_mean(columns.double(), dim=0)
        means.append(mean)
        deviations.append(deviation)
    return torch.cat(means), torch.cat(deviations).mean().item()


def _standard_error(values: Tensor) -> Tensor:
    return values.std(0) / math.sqrt(len(values))
