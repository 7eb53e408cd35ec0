"""The signed inception distance: against brute force, closed forms, and what its sign must be."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_regularizers.spider import signed_inception_distance

ORDERS = (1, 0.5, 3, -1, -3, -5)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(count: int, d: int, seed: int, spread: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, d, generator=draw(seed), dtype=torch.float64) * spread + shift


def brute_force(source, target, kernel, r, n_points, n_subsets, seed):
    """With whole sets in each subset, and the points of the same generator: pair by pair, in plain Python loops."""
    generator = draw(seed)
    for _ in range(n_subsets):
        torch.randperm(len(target), generator=generator)
    seeds = torch.randint(2**62, (n_subsets,), generator=generator).tolist()
    half_width = 0.25 * r * float(np.std(target.double().numpy(), axis=0, ddof=1).mean())
    mean = target.double().mean(0)
    values = []
    for own in seeds:
        drawn = torch.rand(n_points, source.shape[1], generator=draw(own), dtype=torch.float64)
        total = 0.0
        for x in mean + half_width * (2 * drawn - 1):
            total += sum(kernel(math.dist(x, c)) for c in source.double().tolist()) / len(source)
            total -= sum(kernel(math.dist(x, c)) for c in target.double().tolist()) / len(target)
        values.append(total / n_points)
    return np.mean(values), np.std(values, ddof=1) / math.sqrt(n_subsets)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_brute_force(order, dtype):
    source, target = features(9, 7, 1, 1.3, 0.2).to(dtype), features(9, 7, 2).to(dtype)
    radii, n_points, n_subsets = (0.5, 4.0, 40.0), 6, 3
    curve = signed_inception_distance(
        source, target, order=order, radii=radii, n_centers=9, n_points=n_points, n_subsets=n_subsets, generator=draw(3)
    )
    expected = [
        brute_force(source, target, lambda s: math.copysign(s**order, order), r, n_points, n_subsets, 3) for r in radii
    ]
    np.testing.assert_allclose(curve.sid, [value for value, _ in expected], rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(curve.standard_errors, [error for _, error in expected], rtol=1e-7)
    assert curve.csid == pytest.approx(sum(curve.sid))


@pytest.mark.parametrize(
    ("m", "d", "logarithm"), [(3, 6, True), (4, 6, True), (1, 6, False), (4, 5, False), (2, 5, False)]
)
def test_polyharmonic_kernels_have_the_logarithm_where_the_paper_has_it(m, d, logarithm):
    order = 2 * m - d
    sign = -1.0 if order < 0 else 1.0
    source, target = features(8, d, 1, 1.3, 0.2), features(8, d, 2)
    settings = {"radii": (2.0, 20.0), "n_centers": 8, "n_points": 6, "n_subsets": 3}
    curve = signed_inception_distance(source, target, order=order, polyharmonic=True, **settings, generator=draw(3))
    expected = [
        brute_force(source, target, lambda s: sign * s**order * (math.log(s) if logarithm else 1), r, 6, 3, 3)[0]
        for r in settings["radii"]
    ]
    np.testing.assert_allclose(curve.sid, expected, rtol=1e-9)


@pytest.mark.parametrize("order", [2, 4])
def test_even_orders_are_exact(order):
    """Against the mean over a grid of x, which is exact for polynomials of this degree by Gauss's rule."""
    source, target = features(9, 2, 1, 1.4, 0.3), features(9, 2, 2)
    nodes, weights = np.polynomial.legendre.leggauss(4)
    curve = signed_inception_distance(source, target, order=order, radii=(1, 6), n_centers=9, n_subsets=2)
    weight = np.outer(weights, weights).reshape(-1) / 4
    for h, sid in zip(curve.half_widths, curve.sid, strict=True):
        grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2) * h + target.mean(0).numpy()
        potentials = [
            (weight[:, None] * (((grid[:, None] - c.numpy()) ** 2).sum(-1)) ** (order / 2)).sum(0).mean()
            for c in (source, target)
        ]
        assert sid == pytest.approx(potentials[0] - potentials[1], rel=1e-12)
    assert max(curve.standard_errors) < 1e-12


def test_by_default_every_feature_is_used_once():
    """Order 2, by its formula, with sets of different sizes that the subsets do not divide."""
    source, target = features(61, 3, 1, 1.4, 0.3), features(43, 3, 2)
    curve = signed_inception_distance(source, target, order=2, radii=(1,), n_subsets=5, generator=draw(3))
    generator = draw(3)
    target_parts = torch.randperm(43, generator=generator).tensor_split(5)
    torch.randint(2**62, (5,), generator=generator)
    source_parts = torch.randperm(61, generator=generator).tensor_split(5)
    assert sorted(torch.cat(source_parts).tolist()) == list(range(61))
    values = []
    for s, t in zip(source_parts, target_parts, strict=True):
        others = [i for i in range(43) if i not in t.tolist()]
        centre = target[others].mean(0)
        values.append((source[s] - centre).square().sum(1).mean() - (target[t] - centre).square().sum(1).mean())
    assert curve.sid[0] == pytest.approx(float(torch.stack(values).mean()), rel=1e-12)


@pytest.mark.parametrize(("source_count", "target_count"), [(40, 40), (41, 41), (100, 25), (7, 200)])
def test_sets_of_one_distribution_are_expected_at_zero(source_count, target_count):
    """In many dimensions too, where the mean of the target's own features lies visibly nearer to them."""
    scores = []
    for i in range(60):
        source, target = features(source_count, 256, 2 * i), features(target_count, 256, 2 * i + 1)
        curve = signed_inception_distance(source, target, radii=(2, 8), n_points=50, generator=draw(i))
        scores.append(curve.csid / curve.csid_standard_error)
    assert abs(np.mean(scores)) < 4 * np.std(scores) / math.sqrt(60)
    assert np.std(scores) < 1.6  # the error is no underestimate; with few subsets a t distribution is wider than 1


def test_blocks_do_not_matter(monkeypatch):
    source, target = features(70, 4, 1, 1.3), features(50, 4, 2)
    settings = {"radii": (2.0, 9.0), "n_points": 30, "n_subsets": 2}
    whole = signed_inception_distance(source, target, **settings, generator=draw(0))
    monkeypatch.setattr("gan_regularizers.spider.distance._BLOCK", 60)
    blocks = signed_inception_distance(source, target, **settings, generator=draw(0))
    np.testing.assert_allclose(blocks.sid, whole.sid, rtol=1e-10)


@pytest.mark.parametrize("order", [1, -0.5, 3])
def test_in_one_dimension_the_mean_over_the_cube_is_known(order):
    """The integral of |x - c|^order over (-h, h) is elementary."""
    source, target = features(40, 1, 1, 1.6, 0.5), features(50, 1, 2)
    curve = signed_inception_distance(
        source, target, order=order, radii=(2, 12), n_centers=40, n_points=200_000, n_subsets=8, generator=draw(0)
    )

    def power(a):
        return np.sign(a) * np.abs(a) ** (order + 1)

    for h, sid, error in zip(curve.half_widths, curve.sid, curve.standard_errors, strict=True):
        source_mean, target_mean = (
            (power(h - v) + power(h + v)).mean() / (2 * h * (order + 1)) * math.copysign(1, order)
            for v in ((c - target.mean()).numpy() for c in (source, target))
        )
        assert abs(sid - (source_mean - target_mean)) < 5 * error


@pytest.mark.parametrize("order", [1, -1, -3, -5, 2])
def test_sign(order):
    target = features(1000, 16, 0)
    others = {
        "equal": (features(1000, 16, 1), 0),
        "shifted": (features(1000, 16, 2, shift=1.0), 1),
        "spread": (features(1000, 16, 3, spread=1.5), 1),
        "shrunk": (features(1000, 16, 4, spread=0.6), -1),
    }
    for name, (source, sign) in others.items():
        curve = signed_inception_distance(source, target, order=order, radii=range(1, 21), generator=draw(5))
        significant = abs(curve.csid) > 4 * curve.csid_standard_error
        assert (math.copysign(significant, curve.csid) if significant else 0) == sign, name


def test_a_set_has_no_distance_from_itself():
    target = features(60, 5, 0)
    curve = signed_inception_distance(target.flip(0), target, n_centers=60, radii=(1, 10))
    assert max(map(abs, curve.sid)) < 1e-12


def test_the_order_of_the_samples_does_not_matter():
    source, target = features(300, 6, 1, 1.2), features(200, 6, 2)
    shuffled = source[torch.randperm(300, generator=draw(0))], target[torch.randperm(200, generator=draw(1))]
    exact = [
        signed_inception_distance(*sets, n_centers=200, n_subsets=2, radii=(1, 9), order=2)
        for sets in ((source[:200], target), (source[:200].flip(0), target.flip(0)))
    ]
    np.testing.assert_allclose(exact[0].sid, exact[1].sid, rtol=1e-10)
    first, second = (signed_inception_distance(*sets, generator=draw(2)) for sets in ((source, target), shuffled))
    assert abs(first.csid - second.csid) < 4 * math.hypot(first.csid_standard_error, second.csid_standard_error)


def test_the_standard_error_falls_with_the_root_of_the_subsets():
    source, target = features(400, 6, 1, 1.2), features(400, 6, 2)
    few, many = (
        signed_inception_distance(
            source, target, n_centers=40, n_points=100, n_subsets=k, radii=(8,), generator=draw(k)
        ).csid_standard_error
        for k in (50, 800)
    )
    assert few / many == pytest.approx(4, rel=0.35)


def test_the_standard_error_is_that_of_new_samples():
    """By default the features are used once, so the error says how much values of others scatter."""
    values, errors = [], []
    for i in range(60):
        curve = signed_inception_distance(
            features(201, 5, 2 * i, 1.2), features(207, 5, 2 * i + 1), radii=(2, 6, 12), generator=draw(i)
        )
        values.append([*curve.sid, curve.csid])
        errors.append([*curve.standard_errors, curve.csid_standard_error])
    np.testing.assert_allclose(np.std(values, 0) / np.mean(errors, 0), 1, rtol=0.3)


def test_tensors_arrays_dtypes_and_seeds():
    source, target = features(50, 4, 1).float(), features(70, 4, 2).float()
    first = signed_inception_distance(source, target, generator=draw(0))
    assert signed_inception_distance(source.numpy(), target.numpy(), generator=draw(0)) == first
    assert signed_inception_distance(source.double(), target.half().double(), generator=draw(0)) != first
    torch.manual_seed(7)
    default = signed_inception_distance(source, target)
    torch.manual_seed(7)
    assert signed_inception_distance(source, target) == default
    reversed_rows = np.flip(target.numpy(), 0)
    frozen = source.numpy().astype(">f4")
    frozen.flags.writeable = False
    assert signed_inception_distance(frozen, reversed_rows, generator=draw(0)).csid == pytest.approx(
        first.csid, rel=0.5
    )


def test_points_and_subsets_of_the_target_are_the_same_for_all_sources():
    """Seen with sources of one point, whose own subsets say nothing."""
    target, point = features(60, 8, 0), features(1, 8, 1)
    first, second = (
        signed_inception_distance(point.expand(count, 8), target, n_points=3, generator=draw(0)) for count in (50, 81)
    )
    np.testing.assert_allclose(first.sid, second.sid, rtol=1e-10)


def test_points_that_meet_a_feature_in_one_dimension_stay_finite():
    """Negative orders are singular there, and rounding must not turn a small distance into none."""
    for seed in range(12):
        curve = signed_inception_distance(
            features(1000, 1, 1, 1.2), features(1000, 1, 2), order=-0.5, generator=draw(seed)
        )
        assert abs(curve.csid) < 5


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's peak memory as Linux tells it")
def test_fifty_thousand_inception_features_fit_in_memory():
    """50,000 x 2,048 against as many in 4 GiB, the features' own 0.8 GB and torch included."""
    code = """
import re, torch
from pathlib import Path
from gan_regularizers.spider import signed_inception_distance
source, target = torch.randn(50_000, 2_048), torch.randn(50_000, 2_048)
curve = signed_inception_distance(source, target)
assert abs(curve.csid) < 5 * curve.csid_standard_error, curve
signed_inception_distance(source, target, n_centers=50_000, n_subsets=2, n_points=50, radii=(10,))
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 0.8e9 < int(done.stdout) * 1024 < 4 * 2**30


BAD = {
    "one sample": ({"source": torch.randn(1, 4)}, ValueError, r"source has shape \[1, 4\].*at least 2"),
    "dimensions": ({"source": torch.randn(5, 3)}, ValueError, "source has features of 3 numbers, target of 4"),
    "rank": ({"target": torch.randn(5)}, ValueError, r"target has shape \[5\]"),
    "integers": ({"target": torch.ones(5, 4, dtype=torch.int64)}, ValueError, "torch.int64"),
    "list": ({"source": [[1.0, 2.0]]}, TypeError, "source is a list"),
    "equal": ({"target": torch.full((5, 4), 0.1)}, ValueError, "all equal"),
    "order": ({"order": 0}, ValueError, "order=0 makes"),
    "singular": ({"order": -4}, ValueError, "more than -4"),
    "order nan": ({"order": math.nan}, ValueError, "order=nan"),
    "polyharmonic": ({"order": 1, "polyharmonic": True}, ValueError, "not 2m - 4.*; 0 and 2 are"),
    "beyond float64": ({"order": 900}, ValueError, "order=900 takes distances .* beyond float64"),
    "no radii": ({"radii": ()}, ValueError, "radii is empty"),
    "radius": ({"radii": (1, 0)}, ValueError, "radii=0"),
    "points": ({"n_points": 0}, ValueError, "n_points=0"),
    "subsets": ({"n_subsets": 1}, ValueError, "n_subsets=1"),
    "centers": ({"n_centers": 6}, ValueError, r"n_centers=6 is outside \[1, 5\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    wrong, error, message = BAD[name]
    good = {"source": torch.randn(5, 4), "target": torch.randn(8, 4)}
    with pytest.raises(error, match=message):
        signed_inception_distance(**{**good, **wrong})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_counted(value):
    source = torch.randn(6, 4)
    source[2, 1] = source[4, 0] = value
    with pytest.raises(ValueError, match="source has NaN or infinity in 2 of 6"):
        signed_inception_distance(source, torch.randn(5, 4))
