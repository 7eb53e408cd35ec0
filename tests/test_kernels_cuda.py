"""The CUDA kernels on a CPU: every CUDA thread a fiber (cuda_emulation/), against the CPU kernels.

This holds their indices, windows, sums and barriers to account where there is no GPU. test_cuda.py runs them on one.
"""

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import arguments, draw, on_cpu, on_cuda
from plain_normals import BLOCKS, normal_block
from stand_in import StandIn, own_kernels, text_image
from test_operator import PARTS, PICTURES, cases, make_case

from gan_regularizers.ops import Columns, Steps, TransformParams

kernels_cpu = pytest.importorskip(
    "gan_regularizers.kernels._kernels", reason="the kernels are not built", exc_type=ImportError
).cpu
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> ModuleType:
    """The launcher of the CUDA kernels."""
    return own_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def emulation(emulated, stand_in_library) -> StandIn:
    """The driver that it has opened."""
    stand_in = StandIn(stand_in_library)
    emulated.open_driver(str(stand_in.path))
    emulated.set_images(text_image)
    return stand_in


@pytest.fixture(autouse=True)
def _opened(emulation):
    return emulation


def check(emulated: ModuleType, x: torch.Tensor, params: TransformParams) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        for adjoint in (False, True):
            laid = x.contiguous(memory_format=layout)
            actual, expected = on_cuda(emulated, laid, params, adjoint), on_cpu(kernels_cpu, laid, params, adjoint)
            # The logarithm and the angle are others than on the CPU, and so is the order of sums.
            tolerance = 4e-6 + torch.finfo(x.dtype).eps
            torch.testing.assert_close(actual.float(), expected.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(data=st.data())
def test_kernels_agree(emulated, dtype, data):
    case = data.draw(cases(dtype))
    check(emulated, case.x, case.params)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ((2, 3, 32, 32), PARTS),  # a block of its own for each sample
        ((2, 3, 72, 80), PARTS),  # two launches, several slices and blocks
        ((2, 3, 71, 83), PARTS),  # the same with odd sides
        ((1, 4, 72, 80), PARTS),  # channels that mix in no register
        ((2, 5, 64, 65), ("shift", "cutout", "noise_std")),  # channels on their own
        ((2, 1, 90, 90), PARTS),
        ((1, 3, 90, 91), ("brightness", "contrast", "gain", "noise_std")),  # flat
        ((3, 2, 1, 20_001), ("gain", "noise_std")),
        ((40, 1, 1, 7), ("gain", "noise_std")),
        ((1, 2, 1023, 1027), ("shift", "noise_std")),  # noise beyond 2^20 elements, whose blocks begin anywhere
        ((1, 1, 1024, 1030), ("gain", "noise_std")),
    ],
)
def test_kernels_agree_on_many_blocks(emulated, shape, parts, dtype):
    case = make_case(shape, parts, dtype=dtype)
    check(emulated, case.x, case.params)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [PARTS, ("contrast", "gain", "noise_std"), ("brightness", "shift", "noise_std")])
@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("shape", [(2, 4, 21, 18), (1, 4, 72, 81)])  # a block for each sample, and several slices
def test_kernels_agree_on_pictures(emulated, shape, picture, parts, dtype):
    case = make_case(shape, parts, dtype=dtype, **picture)
    check(emulated, case.x, case.params)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [("contrast",), ("contrast", "shift")])
def test_a_mean_counts_every_element_once(emulated, parts, dtype):
    """Also where slices meet: the mean of an image with one bright pixel, which is all that no contrast leaves."""
    elements = 3 * 72 * 80
    params = TransformParams(contrast=torch.zeros(1), shift=torch.zeros(1, 2).long() if "shift" in parts else None)
    for layout in (torch.contiguous_format, torch.channels_last):
        for bright in (0, 1, 1023, 1024, 2**14 - 1, 2**14, 2**14 + 1, elements - 1):
            x = torch.zeros(1, 3, 72, 80, dtype=dtype).contiguous(memory_format=layout)
            x.as_strided((elements,), (1,))[bright] = elements
            for adjoint in (False, True):
                y = on_cuda(emulated, x, params, adjoint)
                torch.testing.assert_close(y, torch.full_like(y, float(x.max()) / elements))


def test_a_mean_over_more_slices_than_a_block_has_threads(emulated):
    x = torch.zeros(1, 1, 1, 257 * 2**14 + 5)
    x[..., -1] = x.numel()
    torch.testing.assert_close(on_cuda(emulated, x, TransformParams(contrast=torch.zeros(1))), torch.ones_like(x))


def test_noise_scales_of_any_sign(emulated):
    for parts in (PARTS, ("gain", "noise_std")):
        case = make_case((3, 3, 8, 12), parts, dtype=torch.float32)
        check(emulated, case.x, case.params._replace(noise_std=torch.tensor([0.7, -0.7, 0.0])))


@pytest.mark.parametrize(("seed", "block"), BLOCKS)
def test_normals_at_the_ends_of_their_ranges(emulation, seed, block):
    """As near as the hardware's logarithm, sine and cosine allow, also where the radius is short."""
    assert emulation.normal_block(seed, block) == pytest.approx(normal_block(seed, block), abs=4e-6)


def test_a_sample_of_more_than_2_to_the_31_elements(emulation, emulated):
    """Its last blocks alone, so that no more memory is touched."""
    x, last = torch.empty(1, 1, 1, 2**31 + 2**12, dtype=torch.float16), 512
    x[..., -last:] = torch.linspace(-1, 1, last)
    params = TransformParams(gain=torch.tensor([0.5]), noise_std=torch.tensor([0.25]), seed=torch.tensor([7]))
    y = torch.empty_like(x)
    given, _kept = arguments(x, y, params, adjoint=False)
    emulation.run_last_blocks(8)  # whose threads take turns, the last of which reach the end
    try:
        emulated.transform(**given, workspace=None, device=0, stream=0)
    finally:
        emulation.run_last_blocks(2**63 - 1)
    first = (x.numel() - last) // 4
    noise = torch.tensor([normal_block(7, first + block) for block in range(last // 4)]).flatten()
    expected = 0.5 * x[0, 0, 0, -last:].float() + 0.25 * noise
    torch.testing.assert_close(y[0, 0, 0, -last:].float(), expected, rtol=2**-11, atol=4e-6)
    total = emulation.sum_of_halves(x.data_ptr(), x.numel(), x.numel() - last, x.numel())
    assert total == pytest.approx(float(x[..., -last:].float().sum()), abs=1e-4)


@pytest.mark.parametrize("value", [2**31, 2**32, -(2**32), 2**63 - 1, -(2**63)])
def test_shifts_and_boxes_beyond_all_bounds(emulated, value):
    """They are 64 bits wide, and 32 in a kernel."""
    x, low, high = torch.ones(1, 2, 4, 4), min(value, 0), max(value, 4)
    for adjoint in (False, True):
        for shift in ([value, 0], [0, value]):
            assert not on_cuda(emulated, x, TransformParams(shift=torch.tensor([shift])), adjoint).any()
        for box in ([low, high, 1, 2], [1, 2, low, high]):
            assert on_cuda(emulated, x, TransformParams(cutout=torch.tensor([box])), adjoint).sum() == 24


def test_addresses_that_are_not_aligned(emulated):
    """A tensor may begin anywhere in its storage."""
    for parts in (PARTS, ("gain", "noise_std")):
        case = make_case((2, 3, 8, 12), parts, dtype=torch.float32)
        storage = torch.empty(case.x.numel() + 1)
        x = storage[1:].view(case.x.shape).copy_(case.x)
        torch.testing.assert_close(on_cuda(emulated, x, case.params), on_cuda(emulated, case.x, case.params))


@given(
    st.integers(0, 600),
    st.integers(0, 2**32),
    st.integers(-1, 5),
    st.sampled_from([None, False, True]),
)
def test_draws_are_equal_to_the_bit(emulated, samples, seed, touched_row, given_t):
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(-(2**63), 2**63 - 1, (6, samples), generator=generator)
    columns = Columns(
        (0, 1, 2),
        (1.0, 2.0, 0.3),
        (-0.5, 0.0, 0.7),
        (0.0, 1.0, 1.0),
        (3, 4, 4),
        (9, 33, 33),
        (-4, 0, 16),
        touched_row,
        0.4,
    )
    steps = None
    if given_t is not None:
        t_list, gain, noise = torch.randint(0, 500, (64,)), torch.rand(500), torch.rand(500)
        steps = Steps(5, words[5] % 500 if given_t else None, t_list, gain, noise)
    results = zip(draw(emulated, words, columns, steps, 0, 0), draw(kernels_cpu, words, columns, steps), strict=True)
    assert all(torch.equal(a, b) for a, b in results)


def test_what_the_kernels_refuse(emulated):
    case = make_case((2, 3, 6, 5), PARTS)
    with pytest.raises(ValueError, match="no float64"):
        on_cuda(emulated, case.x, case.params)
    with pytest.raises(ValueError, match="picture's channels are 0 to 4"):
        on_cuda(emulated, case.x.float(), case.params._replace(channels=(0, 4)))

    def transform(dtype: int, shape: tuple[int, ...], parts: list[int], picture: tuple[int, int]) -> None:
        emulated.transform(dtype, shape, False, 4, 2**50, False, parts, 2, 4, picture, 0.0, lambda _floats: 0, 0, 0)

    shifted, contrasted, scaled = ([8 * (part == only) for part in range(8)] for only in (3, 2, 5))
    with pytest.raises(ValueError, match="2\\^31"):
        transform(2, (1, 2, 2**15, 2**16), shifted, (0, 2))
    with pytest.raises(ValueError, match="2\\^31"):
        transform(2, (1, 2, 2**15, 2**16), scaled, (0, 1))
    with pytest.raises(ValueError, match="2\\^30"):
        transform(1, (1, 1, 2**30, 1), shifted, (0, 1))
    with pytest.raises(ValueError, match="workspace is a null"):
        transform(2, (1, 1, 2**10, 2**10), contrasted, (0, 1))
