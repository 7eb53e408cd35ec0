"""The CPU kernels below torch: bits, borders and what they refuse. test_operator.py tests what they compute."""

import hashlib
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_calls import CODES, arguments, draw, each, on_cpu
from plain_normals import BLOCKS, exact_normals, normal_block
from test_operator import PARTS, PICTURES, Case, cases, channels_case, make_case

from gan_regularizers.ops import Columns, Steps, TransformParams
from gan_regularizers.ops.philox import philox_4x32, philox_normal

kernels = pytest.importorskip(
    "gan_regularizers.kernels._kernels", reason="the kernels are not built", exc_type=ImportError
).cpu
INSTRUCTION_SETS = kernels.instruction_sets()
HALVES = (torch.float16, torch.bfloat16)
CPU_INFO = Path("/proc/cpuinfo")


def noise_of(seeds: torch.Tensor, numel: int, **options) -> torch.Tensor:
    """Normals [len(seeds), numel], as a pass over zeros makes them."""
    params = TransformParams(noise_std=torch.ones(len(seeds)), seed=seeds)
    return on_cpu(kernels, torch.zeros(len(seeds), 1, 1, numel), params, **options).view(len(seeds), numel)


def test_the_instruction_sets_are_those_that_the_machine_says_it_has():
    found = re.search(r"^flags\s*: (.*)", CPU_INFO.read_text() if CPU_INFO.exists() else "", re.MULTILINE)
    if not found:
        pytest.skip("no flags of an x86-64 in /proc/cpuinfo")
    flags = set(found[1].split())
    wanted = {"baseline": set(), "avx2": {"avx2"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
    assert [name for name, needed in wanted.items() if needed <= flags] == INSTRUCTION_SETS


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    assert kernels.philox_4x32(counter, key) == expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4), st.integers(0, 300))
def test_normals_equal_the_specification(seeds, numel):
    """To rounding: the reference rounds the angle to float32, an error of 4e-7 at a radius of up to 6.7."""
    seeds = torch.tensor(seeds)
    torch.testing.assert_close(noise_of(seeds, numel), philox_normal(seeds, numel), rtol=0, atol=3e-6)


@pytest.mark.parametrize(("seed", "block"), BLOCKS)
@pytest.mark.parametrize("dtype", CODES)
def test_normals_at_the_ends_of_their_ranges(dtype, seed, block):
    exact = normal_block(seed, block, float if dtype == torch.float64 else np.float32)
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    for instruction_set in range(len(INSTRUCTION_SETS)):
        normals = kernels.normal_block(seed, block, CODES[dtype], instruction_set)
        assert normals == pytest.approx(exact, rel=tolerance, abs=tolerance)


@pytest.fixture(scope="module")
def many() -> torch.Tensor:
    """Ten million normals of 1000 fixed seeds."""
    seeds = torch.randint(-(2**63), 2**63 - 1, (1000,), generator=torch.Generator().manual_seed(3))
    return noise_of(seeds, 10_000, threads=2).double().flatten()


@pytest.mark.parametrize(("power", "moment", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)])
def test_moments(many, power, moment, variance):
    """Within four standard errors of the normal distribution's moments."""
    assert abs(float(many.pow(power).mean()) - moment) < 4 * math.sqrt(variance / len(many))


def test_distribution(many):
    """Kolmogorov-Smirnov: sqrt(n) D exceeds 1.95 once in a thousand draws."""
    n = len(many)
    expected = torch.special.ndtr(many.sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum(expected - steps[:-1], steps[1:] - expected).max()
    assert float(distance) * math.sqrt(n) < 1.95


@pytest.mark.parametrize(("threshold", "share"), [(4.0, 6.3342e-5), (4.75, 2.0345e-6)])
def test_tails(many, threshold, share):
    expected = share * len(many)
    for tail in (many > threshold, many < -threshold):
        assert abs(int(tail.sum()) - expected / 2) < 4 * math.sqrt(expected / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(data=st.data())
def test_bits_do_not_depend_on_instruction_set_threads_layout_or_batch(dtype, data):
    case, adjoint = data.draw(cases(dtype)), data.draw(st.booleans())
    expected = on_cpu(kernels, case.x, case.params, adjoint, instruction_set=0)
    for options in (
        *({"instruction_set": index} for index in range(1, len(INSTRUCTION_SETS))),
        {"threads": 2},
        {"threads": 5},
    ):
        assert torch.equal(on_cpu(kernels, case.x, case.params, adjoint, **options), expected)
    last = case.x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(on_cpu(kernels, last, case.params, adjoint), expected)
    for n in range(len(case.x)):
        one = each(case.params, lambda value, n=n: value[n : n + 1])
        assert torch.equal(on_cpu(kernels, case.x[n : n + 1], one, adjoint), expected[n : n + 1])


def assert_one_result(case: Case) -> None:
    """The same bits on any number of threads and in either layout, and those of the reference to rounding."""
    dtype = case.x.dtype
    for adjoint in (False, True):
        expected = on_cpu(kernels, case.x, case.params, adjoint, instruction_set=0)
        assert expected.isfinite().all()
        last = case.x.contiguous(memory_format=torch.channels_last)
        for x, threads in ((case.x, 1), (case.x, 2), (case.x, 7), (last, 2)):
            assert torch.equal(on_cpu(kernels, x, case.params, adjoint, threads=threads), expected)
        if not adjoint:
            tolerance = 1e-12 if dtype == torch.float64 else 4e-6 + torch.finfo(dtype).eps / 2
            torch.testing.assert_close(expected.double(), case.expected(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES])
@pytest.mark.parametrize(
    "shape", [(2, 3, 70, 81), (9, 3, 40, 64), (1, 1, 1, 40_001), (1, 300, 9, 20), (5, 7, 3, 1200), (1, 3, 256, 256)]
)
@pytest.mark.parametrize("picture", [{}, {"centre": 0.5, "channels": (0, 1)}])
def test_bits_on_many_tiles(shape, dtype, picture):
    """Samples of several tiles, on several threads, in both ways of summing."""
    assert_one_result(make_case(shape, PARTS, dtype=dtype, **picture))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES])
@pytest.mark.parametrize("shape", [(2, 17, 1, 1), (3, 40, 5, 7), (2, 70, 9, 20), (1, 18, 33, 65)])
@pytest.mark.parametrize("parts", [("gain", "noise_std"), ("brightness", "saturation", "noise_std")])
@pytest.mark.parametrize("picture", [{}, {"centre": 0.5, "channels": (3, 15)}])
def test_one_noise_level_for_many_channels(shape, dtype, parts, picture):
    """Where they are all alike they are one long row, but for their layout."""
    assert_one_result(make_case(shape, parts, dtype=dtype, **picture))


# Of kernels that had the bits of release 0.1.0 on all earlier cases. Noise is left out, whose functions have other
# polynomials since.
DIGESTS = {
    torch.float16: "e82ed90a82060346c3794e64e669fbb16b3b20c00234e864d4f6f7e9ee6617be",
    torch.bfloat16: "182fb950d48f38c1e5da27cea7deb0eef61827993ba2ca974f86f2acb5ce9761",
    torch.float32: "8c652a59d6508f9d70fd6662e408f8c6cbe0ab8244d52b9d23ec5875b76c8298",
    torch.float64: "58df9198282ddd23548ffc4264bc0a31c882f97966240161d227f96b6ddd30de",
}


@pytest.mark.parametrize("dtype", DIGESTS)
def test_bits_of_images_that_are_all_picture_about_zero(dtype):
    digest = hashlib.sha256()
    for parts in (PARTS[:6], ("brightness", "gain"), ("contrast",), ("shift",)):
        for shape in ((2, 3, 9, 7), (2, 1, 40, 41), (1, 4, 40, 64)):
            case = make_case(shape, parts, dtype=dtype)
            for adjoint in (False, True):
                digest.update(on_cpu(kernels, case.x, case.params, adjoint).view(torch.uint8).numpy().tobytes())
    assert digest.hexdigest() == DIGESTS[dtype]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DIGESTS)
@pytest.mark.parametrize("instruction_set", range(len(INSTRUCTION_SETS)), ids=INSTRUCTION_SETS)
def test_what_is_only_moved_keeps_its_bits(instruction_set, dtype, layout):
    """Those of NaN, of -0 and of subnormal numbers too. A gain of 1 is that of a clean sample."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    lowest, highest = torch.iinfo(bits).min, torch.iinfo(bits).max
    x = torch.randint(lowest, highest, (3, 2, 5, 40), dtype=bits)
    x[0, :, 2] = lowest  # of -0
    shifts, boxes = [[1, -2], [0, 0], [-3, 14]], [[0, 2, 1, 31], [1, 4, 38, 42], [0, 0, 0, 0]]
    params = TransformParams(
        shift=torch.tensor(shifts), cutout=torch.tensor(boxes), gain=torch.ones(3), centre=0.5, channels=(1, 2)
    )
    forward, adjoint = torch.full_like(x, torch.tensor(0.5, dtype=dtype).view(bits).item()), torch.zeros_like(x)
    for n, ((down, right), (top, bottom, left, right_edge)) in enumerate(zip(shifts, boxes, strict=True)):
        for i, j in itertools.product(range(5), range(40)):
            source_i, source_j = i - down, j - right
            in_box = top <= i < bottom and left <= j < right_edge
            if 0 <= source_i < 5 and 0 <= source_j < 40 and not in_box:
                forward[n, :, i, j] = x[n, :, source_i, source_j]
                adjoint[n, :, source_i, source_j] = x[n, :, i, j]
    given = x.view(dtype).contiguous(memory_format=layout)
    for is_adjoint, expected in ((False, forward), (True, adjoint)):
        moved = on_cpu(kernels, given, params, is_adjoint, instruction_set=instruction_set)
        assert torch.equal(moved.view(bits), expected)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("instruction_set", range(len(INSTRUCTION_SETS)), ids=INSTRUCTION_SETS)
def test_pictures_on_every_instruction_set(instruction_set, picture):
    """Against the step-by-step sequence, in both layouts."""
    case = make_case((2, 4, 21, 18), PARTS, **picture)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = case.x.contiguous(memory_format=layout)
        actual = on_cpu(kernels, x, case.params, instruction_set=instruction_set)
        torch.testing.assert_close(actual, case.expected(), rtol=1e-12, atol=1e-13)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="numpy has no number longer than 64 bits here")
def test_normals_in_double_are_right_to_a_few_units_in_the_last_place():
    """Against longer numbers; the quarter of a turn that an angle lies next to is exact in its word."""
    seeds, numel = torch.arange(8), 100_000
    block, zero = torch.arange(numel // 4), torch.zeros((), dtype=torch.int64)
    words = torch.stack(
        torch.broadcast_tensors(*philox_4x32((block, zero, zero, zero), (seeds[:, None], zero)))
    ).numpy()
    radius_word, angle_word = words[::2].astype(np.longdouble), words[1::2]
    radius = np.sqrt(-2 * np.log((radius_word + 0.5) / 2**32))
    quarter = (angle_word + 2**29) // 2**30
    rest = (angle_word - quarter * 2**30) * (2 * np.arctan(np.longdouble(1)) / 2**30)
    cosine, sine = np.cos(rest), np.sin(rest)
    first, second = (
        np.choose(quarter % 4, turned) for turned in ((cosine, -sine, -cosine, sine), (sine, cosine, -sine, -cosine))
    )
    expected = radius[:, None] * np.stack([first, second], 1)  # [pair, which of it, sample, block]
    params = TransformParams(noise_std=torch.ones(len(seeds)), seed=seeds)
    actual = on_cpu(kernels, torch.zeros(len(seeds), 1, 1, numel, dtype=torch.float64), params)
    actual = actual.view(len(seeds), -1, 4).permute(2, 0, 1).numpy().reshape(expected.shape)
    # 2.993 it is, and 3.131 without the care that the cosine takes.
    assert (np.abs(actual - expected) / np.spacing(np.abs(actual))).max() < 3


def test_normals_in_single_precision_are_right_to_a_millionth():
    """Of uniform numbers in single precision; 6.4e-7 it is."""
    seeds = torch.arange(8)
    error = noise_of(seeds, 100_000).double() - exact_normals(seeds, 100_000, torch.float32)
    assert error.abs().max() < 1e-6


@pytest.mark.parametrize("instruction_set", range(len(INSTRUCTION_SETS)), ids=INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", HALVES)
def test_every_half_is_read_and_rounded_as_torch_does(dtype, instruction_set):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(1, 1, 1, -1)
    copy = on_cpu(kernels, every, TransformParams(gain=torch.ones(1)), instruction_set=instruction_set)
    assert torch.equal(copy.float().nan_to_num(nan=7.0), every.float().nan_to_num(nan=7.0))
    for gain in (-1.0, 1 / 3, 0.999, 1.0625, 1e-3, 70000.0):
        scaled = on_cpu(kernels, every, TransformParams(gain=torch.tensor([gain])), instruction_set=instruction_set)
        expected = (every.float() * torch.tensor(gain)).to(dtype)
        assert torch.equal(scaled.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))


@pytest.mark.parametrize("instruction_set", range(len(INSTRUCTION_SETS)), ids=INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [1, 9, 75])
@pytest.mark.parametrize("dtype", HALVES)
def test_any_nan_stays_nan(dtype, width, instruction_set):
    """With all bits set, rounding would carry into the sign."""
    gain = torch.tensor([0x7FFFFFFF, -1, 0x7F800001], dtype=torch.int32).view(torch.float32)
    x = torch.ones(3, 1, 1, width, dtype=dtype)
    noise = {"noise_std": torch.tensor([0.0, 1.0, 1.0]), "seed": torch.arange(3)}
    for params in (TransformParams(gain=gain), TransformParams(gain=gain, **noise), TransformParams(brightness=gain)):
        assert on_cpu(kernels, x, params, instruction_set=instruction_set).isnan().all()


@st.composite
def feature_maps(draw) -> tuple[int, int, int, int]:
    """Shapes about the sizes at which the kernels take another way."""
    channels = draw(st.integers(1, 40) | st.sampled_from((64, 100, 255, 256, 257, 513)))
    pixels = st.integers(1, 40) if channels > 64 else st.integers(1, 300) | st.sampled_from((511, 512, 513, 1025, 4097))
    return draw(st.integers(1, 3)), channels, 1, draw(pixels)


@pytest.mark.parametrize("dtype", CODES)
@given(data=st.data())
def test_channels_have_the_bits_of_rows(dtype, data):
    """On every instruction set, in both layouts, on any number of threads; the last value is -0."""
    shape, centre = data.draw(feature_maps()), data.draw(st.sampled_from((0.0, 0.5)))
    parts = data.draw(st.sampled_from((("gain", "noise_std"), ("gain",), ("noise_std",))))
    case, adjoint = channels_case(shape, data.draw(st.integers(0, 99)), dtype, centre, parts), data.draw(st.booleans())
    case.x.flatten()[-1:] = -0.0
    expected = on_cpu(kernels, case.rows.x, case.rows.params, adjoint).view(shape)
    last = case.x.contiguous(memory_format=torch.channels_last)
    for x in (case.x, last):
        for options in (*({"instruction_set": index} for index in range(len(INSTRUCTION_SETS))), {"threads": 3}):
            y = on_cpu(kernels, x, case.params, adjoint, **options)
            assert torch.equal(y, expected)
            assert torch.equal(y.signbit(), expected.signbit())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", CODES)
def test_clean_channels_keep_their_values(dtype, layout):
    """Also where others have noise; -0 and what is not finite too."""
    x = torch.tensor([-0.0, torch.inf, torch.nan, 1.0], dtype=dtype).view(1, 4, 1, 1).expand(2, 4, 3, 5)
    x = x.contiguous(memory_format=layout)
    gain, noise_std = torch.ones(2, 4), torch.zeros(2, 4)
    noise_std[:, 3], noise_std[1] = 1.0, torch.arange(4) % 2
    y = on_cpu(kernels, x, TransformParams(gain=gain, noise_std=noise_std, seed=torch.arange(8).view(2, 4)))
    for n, c in (noise_std == 0).nonzero().tolist():
        assert torch.equal(y[n, c].nan_to_num(nan=7.0), x[n, c].nan_to_num(nan=7.0))
        assert torch.equal(y[n, c].signbit(), x[n, c].signbit())
    for n, c in (noise_std != 0).nonzero().tolist():
        assert x[n, c, 0, 0].isfinite() == y[n, c].isfinite().all()
        assert not x[n, c, 0, 0].isfinite() or y[n, c].unique().numel() > 10


@pytest.mark.parametrize("shape", [(2, 600, 3, 3), (40, 64, 1, 2), (3, 9, 64, 65)])
def test_channels_on_many_threads(shape):
    case = channels_case(shape, dtype=torch.float32)
    for x in (case.x, case.x.contiguous(memory_format=torch.channels_last)):
        one, *others = (on_cpu(kernels, x, case.params, threads=threads) for threads in (1, 2, 7))
        torch.testing.assert_close(one.double(), case.expected(), rtol=0, atol=4e-6)
        assert all(torch.equal(other, one) for other in others)


@pytest.mark.parametrize("part", range(5))
def test_no_part_beside_values_for_every_channel(part):
    given, kept = valid_call()
    given["parts"] = [address if i in (part, 5) else 0 for i, address in enumerate(given["parts"])]
    with pytest.raises(ValueError, match="beside values for every channel there is another part"):
        kernels.transform(**given, per_channel=True)
    assert kept[1].isnan().all()


def test_every_channel_is_picture_where_all_have_values():
    given, kept = valid_call()
    given["parts"] = [address if i == 5 else 0 for i, address in enumerate(given["parts"])]
    for picture in ((0, 2), (1, 3)):
        with pytest.raises(ValueError, match="all of them are picture"):
            kernels.transform(**given | {"picture": picture}, per_channel=True)
    assert kept[1].isnan().all()


def valid_call() -> tuple[dict, list]:
    case = make_case((2, 3, 6, 5), PARTS, dtype=torch.float32)
    out = torch.full_like(case.x, torch.nan)
    given, kept = arguments(case.x, out, case.params, False)
    return given, [case, out, *kept]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input": 0}, "the input is a null pointer"),
        ({"output": 0}, "the output is a null pointer"),
        ({"shape": (2, -3, 6, 5)}, "channels is -3"),
        ({"shape": (-1, 3, 6, 5)}, "samples is -1"),
        ({"shape": (2**31, 2**31, 6, 5)}, "overflow 64 bits"),
        ({"picture": (-1, 2)}, "picture's channels are -1 to 2, half open; a sample has 3"),
        ({"picture": (0, 4)}, "picture's channels are 0 to 4"),
        ({"picture": (2, 2)}, "picture's channels are 2 to 2"),
        ({"picture": (2, 1)}, "picture's channels are 2 to 1"),
        ({"dtype": 4}, "dtype 4"),
        ({"dtype": -1}, "dtype -1"),
        ({"threads": 0}, "threads is 0"),
        ({"instruction_set": 99}, "instruction set 99"),
        ({"instruction_set": -2}, "instruction set -2"),
    ],
)
def test_a_call_that_cannot_be_run(changed, message):
    given, kept = valid_call()
    before = kept[1].fill_(5.0).clone()
    with pytest.raises(ValueError, match=message):
        kernels.transform(**{**given, **changed})
    assert torch.equal(kept[1], before)


@pytest.mark.parametrize("shift", [0, 4, -4, 4 * 179, -4 * 179])
def test_output_over_input(shift):
    given, _kept = valid_call()
    with pytest.raises(ValueError, match="overlap"):
        kernels.transform(**{**given, "output": given["input"] + shift})


def test_output_that_is_not_aligned():
    given, _kept = valid_call()
    with pytest.raises(ValueError, match="aligned"):
        kernels.transform(**{**given, "output": given["output"] + 1})


@pytest.mark.parametrize("missing", [6, 7])
def test_noise_without_its_scale_or_its_seed(missing):
    given, _kept = valid_call()
    given["parts"][missing] = 0
    with pytest.raises(ValueError, match="belong together"):
        kernels.transform(**given)


@pytest.mark.parametrize("shape", [(0, 3, 6, 5), (2, 0, 6, 5), (2, 3, 0, 5), (2, 3, 6, 0)])
def test_nothing_to_do(shape):
    """Null pointers are fine where there is nothing to read."""
    given, _kept = valid_call()
    kernels.transform(**{**given, "shape": shape, "input": 0, "output": 0})


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, 2**31, -(2**31) - 1])
def test_shifts_and_boxes_beyond_all_bounds(value):
    x = torch.ones(1, 2, 4, 4)
    gone = on_cpu(kernels, x, TransformParams(shift=torch.tensor([[0, value]])))
    assert not gone.any()
    low, high = min(value, 0), max(value, 4)
    cut = on_cpu(kernels, x, TransformParams(cutout=torch.tensor([[low, high, 1, 2]])))
    assert cut.sum() == (24 if low == 0 or high == 4 else 0)
    for adjoint in (False, True):
        both = TransformParams(shift=torch.tensor([[value, value]]), cutout=torch.tensor([[low, high, low, high]]))
        assert not on_cpu(kernels, x, both, adjoint).any()


COLUMNS = Columns((0,), (1.0,), (0.0,), (0.0,), (1,), (4,), (0,))
TABLE = torch.rand(10)
STEPS = Steps(0, None, torch.tensor([0, 5, 9, 9]), TABLE, -TABLE)


def draw_call(columns: Columns = COLUMNS, steps: Steps | None = STEPS, **changed: Any) -> tuple[torch.Tensor, ...]:
    return draw(kernels, torch.tensor([[0, 1, 2], [0, 0, 0]]), columns, steps, **changed)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"low": ()}, "differ in length"),
        ({"neutral": (0.0, 1.0)}, "differ in length"),
        ({"count": (1, 2)}, "differ in length"),
        ({"real_row": (0,) * 17}, "at most 16"),
        ({"row": (0,) * 17}, "at most 16"),
        ({"row": (-1,)}, "row -1"),
        ({"row": (2,)}, "row 2"),
        ({"real_row": (2,)}, "row 2"),
        ({"touched_row": 2}, "row 2"),
    ],
)
def test_columns_that_cannot_be_drawn(columns, message):
    with pytest.raises(ValueError, match=message):
        draw_call(COLUMNS._replace(**columns), None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"words": 0}, "words is a null"),
        ({"reals": 0}, "reals is a null"),
        ({"integers": 0}, "integers is a null"),
        ({"samples": -1}, "samples is negative"),
        ({"t": 0}, "t is a null"),
        ({"t_list": 0}, "t_list is a null"),
        ({"gain_table": 0}, "table is a null"),
        ({"noise_table": 0}, "table is a null"),
        ({"entry_row": -1}, "row -1"),
        ({"entry_row": 2}, "row 2"),
        ({"length": 3}, "no power of two"),
        ({"length": 0}, "no power of two"),
        ({"table_length": 0}, "tables are empty"),
        ({"table_length": 9}, "t is 9; allowed are 0 to 8"),
    ],
)
def test_a_draw_that_cannot_be_made(changed, message):
    with pytest.raises(ValueError, match=message):
        draw_call(**changed)


def test_draw():
    reals, whole, t = draw_call()
    assert t.tolist() == [0, 5, 9]
    assert torch.equal(reals, torch.stack([torch.zeros(3), TABLE[t], -TABLE[t]]))
    assert whole.tolist() == [[0]] * 3
    (reals, _, t), given_t = draw_call(steps=STEPS._replace(t=torch.tensor([9, 0, 3]))), [9, 0, 3]
    assert t.tolist() == given_t
    assert torch.equal(reals[1], TABLE[given_t])
