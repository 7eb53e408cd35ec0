"""Philox 4x32-10 against its published vectors, and the normals made of it against the normal distribution."""

import math
import random

import numpy as np
import plain_normals
import pytest
import torch
from plain_normals import BLOCKS, normal_block

from gan_regularizers.ops.philox import _box_muller, normal_blocks, philox_4x32, philox_normal


def as_words(*values: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([value]) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    assert tuple(int(word) for word in philox_4x32(as_words(*counter), as_words(*key))) == expected
    assert plain_normals.philox_4x32(list(counter), list(key)) == list(expected)


def test_random_words_equal_plain_integers():
    words = np.random.default_rng(0).integers(0, 2**32, (200, 6)).tolist()
    columns = torch.tensor(words).unbind(1)
    actual = torch.stack(philox_4x32(columns[:4], columns[4:]), 1)
    assert actual.tolist() == [plain_normals.philox_4x32(row[:4], row[4:]) for row in words]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**32, -(2**32) + 5, 2**63 - 1, -(2**63)])
def test_normals_equal_box_muller_in_plain_python(seed):
    """Also fixes the counter, the key (all 64 bits of the seed) and the pairing of the words."""
    exact = torch.tensor([normal_block(seed, block, float) for block in range(3)], dtype=torch.float64).view(1, 12)
    seeds = torch.tensor([seed])
    torch.testing.assert_close(philox_normal(seeds, 12, torch.float64), exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(philox_normal(seeds, 12, torch.float32), exact.float(), rtol=2e-6, atol=3e-6)


@pytest.mark.parametrize(("seed", "block"), BLOCKS)
def test_blocks_at_the_ends_of_their_ranges(seed, block):
    for dtype, real, tolerance in ((torch.float64, float, 1e-12), (torch.float32, np.float32, 3e-6)):
        exact = torch.tensor([[normal_block(seed, block, real)]], dtype=dtype)
        normals = normal_blocks(torch.tensor([seed]), torch.tensor([block]), dtype)
        torch.testing.assert_close(normals, exact, rtol=tolerance, atol=tolerance)


def test_extreme_words_give_finite_normals():
    words = torch.tensor([0, 1, 2**31, 2**32 - 1])
    for dtype in (torch.float32, torch.float64):
        cosine, sine = _box_muller(words[:, None], words[None, :], dtype)
        radius = torch.hypot(cosine, sine)
        assert radius.isfinite().all()
        assert radius.max() <= math.sqrt(2 * 33 * math.log(2)) * (1 + 1e-6)


def test_the_shortest_radii_in_float32():
    """As docs/operator.md has it: of the 400,000 words next to 2^32."""
    words, zero = 2**32 - 1 - torch.arange(400_000), torch.zeros((), dtype=torch.int64)
    rounded, exact = (_box_muller(words, zero, dtype)[0].double() for dtype in (torch.float32, torch.float64))
    error = (rounded - exact).abs()
    assert error.max() < 2.5e-4
    assert error[exact < 0.006].max() > 5e-6
    assert error[exact > 0.006].max() < 5e-6
    assert 1 / 60_000 < float((exact < 0.006).sum()) / 2**32 < 1 / 50_000


@pytest.fixture(scope="module")
def many() -> torch.Tensor:
    """Four million normals: 1000 seeds as torch draws them, 4000 elements each."""
    seeds = torch.randint(-(2**63), 2**63 - 1, (1000,), generator=torch.Generator().manual_seed(3))
    return philox_normal(seeds, 4000).double()


@pytest.mark.parametrize(("power", "moment", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)])
def test_moments(many, power, moment, variance):
    """Within four standard errors of the normal distribution's moments."""
    error = abs(float(many.pow(power).mean()) - moment)
    assert error < 4 * math.sqrt(variance / many.numel())


def test_distribution(many):
    """Kolmogorov-Smirnov: sqrt(n) D exceeds 1.95 once in a thousand draws."""
    n = many.numel()
    expected = torch.special.ndtr(many.flatten().sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum(expected - steps[:-1], steps[1:] - expected).max()
    assert float(distance) * math.sqrt(n) < 1.95


@pytest.mark.parametrize(("threshold", "share"), [(3.0, 2.6998e-3), (4.0, 6.3342e-5), (4.75, 2.0345e-6)])
def test_tails(many, threshold, share):
    expected = share * many.numel()
    for tail in (many > threshold, many < -threshold):
        assert abs(int(tail.sum()) - expected / 2) < 4 * math.sqrt(expected / 2)


def test_elements_and_seeds_are_uncorrelated(many):
    """Neighbours in a row up to twelve apart, rows of one element, and consecutive seeds."""
    bound = 4.5 / math.sqrt(many.numel() - 12 * 1000)
    for lag in range(1, 13):
        assert abs(float((many[:, lag:] * many[:, :-lag]).mean())) < bound
        assert abs(float((many[:, lag:].square() * many[:, :-lag].square()).mean()) - 1) < 3 * bound
    assert abs(float((many[1:] * many[:-1]).mean())) < bound
    consecutive = philox_normal(torch.arange(-500, 500), 1000).double()
    assert abs(float((consecutive[1:] * consecutive[:-1]).mean())) < 4 / math.sqrt(999_000)


def test_a_row_depends_on_its_seed_alone():
    seeds = torch.tensor([5, -5, 2**40, 5])
    rows = philox_normal(seeds, 37)
    assert torch.equal(rows[0], rows[3])
    assert torch.unique(rows[:3]).numel() == 3 * 37
    for seed, row in zip(seeds, rows, strict=True):
        assert torch.equal(philox_normal(seed[None], 37)[0], row)


@pytest.mark.parametrize("numel", [0, 1, 2, 3, 4, 5, 36])
def test_a_shorter_row_is_a_prefix(numel):
    seeds = torch.tensor([random.Random(0).getrandbits(62), -3])
    assert torch.equal(philox_normal(seeds, numel), philox_normal(seeds, 37)[:, :numel])
