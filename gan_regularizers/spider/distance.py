"""The signed inception distance (Spider GAN, arXiv 2305.07613, section 3): how a set of features lies about another."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import number, whole_number

RADII = tuple(range(1, 51))
_BLOCK = 2**19  # distances at a time
_ROUNDING = 4 * torch.finfo(torch.float64).eps  # what is left of a distance of 0

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

    The distance of Spider GAN (arXiv 2305.07613, section 3). phi grows with the norm of its argument:
    ||.||^order for a positive order, -||.||^order for a negative one. The distance is no metric: it is signed, not
    symmetric, and zero for sets that are equal in distribution (not only for these).

    It is the mean over subsets of both sets, each with points x of its own. The centre of a subset's cube is the mean
    of the target's other features: their own mean lies nearer to them than to new ones, and the source would look
    spread. So sets of one distribution are expected at 0, whatever their sizes. Orders 2 and 4 (not polyharmonic) are
    integrated over the cube in closed form, without points. All arithmetic is in float64, on the target's device and in
    blocks, so that large sets need little memory beside their own. Not differentiable.

    Args:
        source: features [N, d] of generated images or of a candidate data set, of any floating dtype, all finite.
        target: features [M, d] of the real images.
        order: exponent of the kernel, above -d and not 0; the reference code uses 1, -1, -3 and -5. At -d / 2 and below
            the mean over points has no finite variance, so its standard error says little.
        polyharmonic: the paper's kernel of order 2m - d for a whole m >= 1, that is ||.||^order ln||.|| where the order
            is not negative and d is even; 0 is then allowed.
        radii: r of each cube; by default 1 to 50.
        n_centers: features of each set in a subset, drawn anew for each, at most what the smaller set has; the standard
            error then says how far other subsets of these features would lead. By default the subsets share each set
            out, every feature once, and the error is that of new features of the same two distributions.
        n_points: x in a subset. The same ones serve all radii and both sets.
        n_subsets: at least 2; by default fewer, if a set has fewer features.
        generator: of the subsets and points; on its own device, by default torch's on that of the target. Target and
            points are drawn before the source, so they are the same for all sources of a seed.

    Raises:
        TypeError: something else than arrays or tensors, or a setting that is no number.
        ValueError: fewer than two features, other dimensions, a number that is not finite, a target whose features are
            all equal, a setting out of range, or an order too far from 0 for float64.
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
    n_subsets = min(n_subsets, len(source), len(target)) if n_centers is None else n_subsets
    target_parts = _parts(len(target), n_centers, n_subsets, generator, device)
    seeds = torch.randint(2**62, (n_subsets,), generator=generator, device=device).tolist()
    source_parts = _parts(len(source), n_centers, n_subsets, generator, device)
    rows_at_once = min(1024, max(1, _BLOCK // n_points))

    def blocks(features: Tensor, part: Tensor) -> Iterator[Tensor]:
        return (features[rows].double() for rows in part.to(features.device).split(rows_at_once))

    rows = []
    for source_part, target_part, seed in zip(source_parts, target_parts, seeds, strict=True):
        if closed := None if polyharmonic else _CLOSED_FORMS.get(order):
            potential = _in_closed_form(closed, half_widths, d)
        else:
            own = torch.Generator(device).manual_seed(seed)
            points = torch.rand(n_points, d, generator=own, dtype=torch.float64, device=device)
            potential = _at_points(kernel, (2 * points - 1).to(target.device), half_widths)
        centre, others = mean, len(target) - len(target_part)
        if others:
            centre = (len(target) * mean - sum(block.sum(0) for block in blocks(target, target_part))) / others
        at_source, at_target = (
            potential(block - centre for block in blocks(features, part))
            for features, part in ((source, source_part), (target, target_part))
        )
        rows.append(at_source - at_target)
    sid = torch.stack(rows).cpu()
    if not sid.isfinite().all():
        raise ValueError(f"order={order:g} takes distances of these features beyond float64; give one nearer to 0")

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
    if isinstance(value, np.ndarray):  # torch takes neither a foreign byte order nor reversed rows
        value = np.require(value, value.dtype.newbyteorder("="), ["C", "W"])
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
        near = max(2 * math.floor((order + d) / 2), 2) - d
        raise ValueError(f"order={order:g} is not 2m - {d}, as polyharmonic kernels have it; {near} and {near + 2} are")
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
                scale = squared + h**2 * points_squared
                distances = torch.add(scale, products, alpha=-2 * h)
                total[i] += kernel(distances.clamp_(min=_ROUNDING * scale.max())).sum()
            count += len(block)
        return total / (count * len(points))

    return potential


def _parts(
    count: int, size: int | None, n_parts: int, generator: torch.Generator | None, device: torch.device
) -> Sequence[Tensor]:
    """Indices for each subset: so many drawn anew for each, or all of them shared out."""

    def shuffled() -> Tensor:
        return torch.randperm(count, generator=generator, device=device)

    return shuffled().tensor_split(n_parts) if size is None else [shuffled()[:size] for _ in range(n_parts)]


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
