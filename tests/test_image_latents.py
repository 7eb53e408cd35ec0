"""Generators that are fed with images, and cascades of generators."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.nn import functional as F

from gan_regularizers.spider import Cascade, ImageLatents
from gan_regularizers.spider.image_latents import freeze


def pictures(count: int = 7, side: int = 32, channels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def gaussian(count: int, k: int = 512, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, k, generator=torch.Generator().manual_seed(seed))


class ToyGenerator(nn.Module):
    """Z [N, z_dim] -> images [N, 3, side, side]; batch normalisation and dropout show whether it is in eval mode."""

    def __init__(self, z_dim: int = 8, side: int = 12) -> None:
        super().__init__()
        self.z_dim, self.side = z_dim, side
        self.layers = nn.Sequential(nn.Linear(z_dim, 3 * side**2), nn.BatchNorm1d(3 * side**2), nn.Dropout(0.5))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z).view(-1, 3, self.side, self.side).tanh()


@pytest.mark.parametrize(("geometry", "pixels"), [((16, 32), 512), ((23, 23), 529)])
def test_latents_are_those_of_the_official_geometries(geometry, pixels):
    """Channel mean, bilinear resize of 32 x 32 by hand, flatten, cut to 512, root mean square 1."""
    images = pictures()
    latents = ImageLatents(images, 512, geometry=geometry, centered=False)
    z = gaussian(30)
    actual = latents(z)
    gray = (images.double() / 127.5 - 1).mean(1).numpy()
    rows, columns = (
        [max((i + 0.5) * 32 / side - 0.5, 0) for i in range(side)] for side in geometry
    )  # centres of the pixels

    def sample(image, y, x):
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, 31), min(x0 + 1, 31)
        top = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
        bottom = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
        return top * (1 - (y - y0)) + bottom * (y - y0)

    for latent, index in zip(actual, latents.index(z).tolist(), strict=True):
        flat = np.array([sample(gray[index], y, x) for y in rows for x in columns])
        assert len(flat) == pixels
        flat = flat[:512]
        np.testing.assert_allclose(latent, flat / np.sqrt((flat**2).mean()), atol=1e-5)


@pytest.mark.parametrize("source", ["images", "generator"])
def test_what_all_images_share_is_subtracted(source):
    shared = torch.linspace(-1, 1, 32).expand(3, 32, 32) * 0.8
    if source == "images":
        own = pictures(64).float() / 255 * 0.2
        made = ((shared + own + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    else:
        made = ToyGenerator(side=8)
        made.layers[0].weight.data.mul_(0.1)
        made.layers[0].bias.data.copy_(F.adaptive_avg_pool2d(shared, 8).flatten())
    plain, centered = (ImageLatents(made, 64, centered=flag) for flag in (False, True))
    z = gaussian(500, 64)

    def cosine(latents):  # the mean one between two latents
        x = latents(z)
        return float((x @ x.T / 64).mean())

    assert cosine(plain) > 0.8
    assert abs(cosine(centered)) < 0.1
    assert not plain.mean_latent.any()
    if source == "images":
        expected = plain._flatten(plain.images.float() / 127.5 - 1).mean(0)
        torch.testing.assert_close(centered.mean_latent, expected)


def test_a_gaussian_z_picks_all_images_alike():
    latents = ImageLatents(pictures(13, 4), 16)
    counts = torch.bincount(latents.index(gaussian(20_000, 16)), minlength=13)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    extreme = torch.tensor([[-40.0], [40.0], [float("inf")], [float("-inf")]])
    assert latents.index(extreme).tolist() == [0, 12, 12, 0]


def test_the_choice_of_an_image_is_the_normal_distribution_function():
    latents = ImageLatents(pictures(100, 4), 16)
    z = torch.tensor(stats.norm.ppf((np.arange(100) + 0.5) / 100))[:, None]
    assert latents.index(z).tolist() == list(range(100))


@given(
    count=st.integers(0, 5),
    k=st.integers(1, 9),
    z_dim=st.integers(1, 200),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_shapes_dtypes_and_scale(count, k, z_dim, shape, dtype):
    latents = ImageLatents(torch.randint(0, 256, (3, *shape), dtype=torch.uint8), z_dim)
    z = gaussian(count, k).to(dtype)
    result = latents(z)
    assert result.shape == (count, z_dim)
    assert result.dtype == dtype
    assert latents.images.dtype == torch.uint8
    assert max(latents.images.shape[2:]) <= 32
    if dtype.itemsize >= 4:
        torch.testing.assert_close(result.square().mean(1), torch.ones(count, dtype=dtype), rtol=1e-3, atol=1e-3)
    assert torch.equal(result, latents(z))
    if count:
        torch.testing.assert_close(latents(z[:1]), result[:1])


@pytest.mark.parametrize(
    ("z_dim", "geometry"), [(512, (16, 32)), (64, (8, 8)), (256, (16, 16)), (100, (10, 10)), (7, (3, 3)), (1, (1, 1))]
)
def test_default_geometry(z_dim, geometry):
    assert ImageLatents(pictures(), z_dim).geometry == geometry


def test_large_images_are_averaged_before_they_are_resized():
    """A chessboard of single pixels is gray, however it is sampled."""
    board = torch.full((1, 3, 256, 256), 0, dtype=torch.uint8)
    board[:, :, ::2, ::2] = board[:, :, 1::2, 1::2] = 255
    latents = ImageLatents(board, 512, centered=False)
    assert latents.images.unique().tolist() == [128]


def test_jitter_gives_gaussian_neighbours_of_an_image():
    sharp, soft = (ImageLatents(pictures(5), 64, jitter=jitter) for jitter in (0.0, 0.3))
    z = gaussian(4000, 64)
    assert torch.equal(sharp.index(z), soft.index(z))
    assert len(sharp(z).unique(dim=0)) == 5
    assert len(soft(z).unique(dim=0)) == 4000
    # Before it is scaled to root mean square 1, the latent is the image's and 0.3 of standard normals.
    noise = (soft._of_images(z) - sharp._of_images(z)) / 0.3
    for coordinate in (0, 1, 63):
        assert stats.kstest(noise[:, coordinate].double().numpy(), "norm").pvalue > 1e-3
    for coordinate in (0, 1, 63):  # what picked the image says nothing more
        within = noise[soft.index(z) == 2, coordinate]
        assert stats.kstest(within.double().numpy(), "norm").pvalue > 1e-3
    with pytest.raises(ValueError, match=r"z has 8 numbers; jitter=0.3 needs z_dim=64"):
        soft(z[:, :8])


def test_images_and_licence_travel():
    latents = ImageLatents(pictures(), 64, geometry=(8, 8), licence="CC-BY 4.0, Zoë")
    assert "CC-BY 4.0, Zoë" in repr(latents)
    z = gaussian(9, 64)
    for copied in (pickle.loads(pickle.dumps(latents)), copy.deepcopy(latents)):
        assert copied.licence == latents.licence
        assert torch.equal(copied(z), latents(z))
    stream = io.BytesIO()
    torch.save(latents.state_dict(), stream)
    stream.seek(0)
    other = ImageLatents(pictures(seed=1), 64)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert other.licence == latents.licence
    assert torch.equal(other(z), latents(z))
    assert all(isinstance(value, torch.Tensor) for value in latents.state_dict().values())  # averages go over them
    assert latents.state_dict()["images"].dtype == torch.uint8
    assert latents.half().images.dtype == torch.uint8
    assert not list(latents.parameters())


def test_a_generator_is_frozen_for_good():
    source = ToyGenerator(side=8)
    latents = ImageLatents(source, 16)
    assert list(source.parameters()), "the generator that was given stays as it was"
    assert source.training
    z = gaussian(6, 8)
    before = latents(z)
    latents.requires_grad_(True).train()
    assert not list(latents.parameters())
    assert torch.equal(latents(z), before)
    assert torch.equal(latents(z), before)
    G = nn.Sequential(latents, nn.Linear(16, 3))
    optimizer = torch.optim.Adam(G.parameters(), 0.1)
    G(z).square().sum().backward()
    optimizer.step()
    assert torch.equal(latents(z), before)
    expected = F.interpolate(freeze(source)(z).mean(1, keepdim=True), (4, 4), mode="area").flatten(1)
    expected = expected - latents.mean_latent
    torch.testing.assert_close(before, expected / expected.square().mean(1, keepdim=True).sqrt(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", [ToyGenerator(), pictures()], ids=["generator", "images"])
def test_a_source_on_another_device_is_left_there(source):
    """As with a generator that was trained on a GPU; the meta device stands for it."""
    latents = ImageLatents(source.to("meta"), 16, centered=False)
    assert {buffer.device.type for buffer in latents.buffers()} == {"meta"}
    assert latents(torch.empty(2, 8, device="meta")).shape == (2, 16)


def test_a_loaded_state_gives_the_same_latents():
    first = ImageLatents(pictures(), 64, geometry=(4, 20), jitter=0.2)
    second = ImageLatents(pictures(seed=1), 64)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(gaussian(9, 64)), first(gaussian(9, 64)))


def test_gradients_reach_z_through_a_generator():
    latents = ImageLatents(ToyGenerator(side=6).double(), 9)
    z = gaussian(3, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(latents, z)
    assert torch.autograd.gradgradcheck(latents, z)


def test_a_wider_z_gives_the_generator_what_it_takes():
    latents = ImageLatents(ToyGenerator(z_dim=8), 16)
    z = gaussian(4, 20)
    assert torch.equal(latents(z), latents(z[:, :8]))
    with pytest.raises(ValueError, match="z has 5 numbers; the generator that is the source needs 8"):
        latents(z[:, :5])


def test_cascades_of_any_depth():
    torch.manual_seed(0)
    first, second, third = ToyGenerator(8).eval(), ToyGenerator(16).eval(), ToyGenerator(9).eval()
    cascade = Cascade(first, second, third, centered=False)
    assert cascade.z_dim == 8
    z = gaussian(5, 8)
    expected = third(_by_hand(first, second, z))
    torch.testing.assert_close(cascade(z), expected)
    torch.testing.assert_close(Cascade(Cascade(first, second, centered=False), third, centered=False)(z), expected)
    loaded = pickle.loads(pickle.dumps(cascade))
    assert torch.equal(loaded(z), cascade(z))
    trained = {name for name, _ in cascade.named_parameters()}
    assert trained == {f"generator.{name}" for name, _ in third.named_parameters()}
    assert cascade(z[:1]).shape == (1, 3, 12, 12)


def _by_hand(first: nn.Module, second: nn.Module, z: torch.Tensor) -> torch.Tensor:
    for generator, geometry, z_dim in ((first, (4, 4), 16), (second, (3, 3), 9)):
        gray = generator(z).mean(1, keepdim=True)
        gray = F.adaptive_avg_pool2d(gray, [2 * side for side in geometry])
        flat = F.interpolate(gray, geometry, mode="bilinear").flatten(1)[:, :z_dim]
        z = flat / (flat.square().mean(1, keepdim=True) + 1e-8).sqrt()
    return z


def test_a_cascade_passes_arguments_on_to_its_last_generator():
    class Labelled(nn.Module):
        z_dim = 4

        def forward(self, z, c, scale=1.0):
            return scale * (z + c)[:, :, None, None].expand(-1, -1, 8, 8)

    cascade = Cascade(ToyGenerator(8), Labelled())
    z, c = gaussian(3, 8), torch.ones(3, 1)
    torch.testing.assert_close(
        cascade(z, c, scale=2.0), 2 * (cascade.latents(z) + 1)[:, :, None, None].expand(-1, -1, 8, 8)
    )


def _old_weight_norm() -> nn.Module:
    generator = ToyGenerator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        generator.layers[0] = nn.utils.weight_norm(generator.layers[0])
    return generator


def _constant() -> nn.Module:
    generator = ToyGenerator()
    nn.init.zeros_(generator.layers[0].weight)
    return generator


BAD = {
    "list": (lambda: ImageLatents([1], 4), TypeError, "source is a list"),
    "float": (lambda: ImageLatents(torch.rand(2, 3, 4, 4), 4), ValueError, "torch.float32; give images, uint8"),
    "one image": (lambda: ImageLatents(pictures()[0], 4), ValueError, r"shape \[3, 32, 32\]"),
    "empty": (lambda: ImageLatents(pictures(0), 4), ValueError, r"shape \[0, 3, 32, 32\]"),
    "z_dim": (lambda: ImageLatents(pictures(), 0), ValueError, "z_dim=0"),
    "small": (lambda: ImageLatents(pictures(), 512, geometry=(16, 16)), ValueError, "256 pixels.*z_dim=512"),
    "geometry": (lambda: ImageLatents(pictures(), 4, geometry=(4,)), ValueError, r"geometry=\(4,\)"),
    "side": (lambda: ImageLatents(pictures(), 4, geometry=(0, 4)), ValueError, "geometry=0"),
    "jitter": (lambda: ImageLatents(pictures(), 4, jitter=-1), ValueError, "jitter=-1"),
    "jittered generator": (lambda: ImageLatents(ToyGenerator(), 4, jitter=0.1), ValueError, "jitter=0.1 is for images"),
    "integers": (lambda: ImageLatents(pictures(), 4)(torch.ones(2, 4, dtype=torch.int64)), ValueError, "torch.int64"),
    "rank": (lambda: ImageLatents(pictures(), 4)(torch.randn(4)), ValueError, r"z has shape \[4\]"),
    "lone": (lambda: Cascade(ToyGenerator()), ValueError, "1 generators are no cascade"),
    "function": (lambda: Cascade(ToyGenerator(), torch.tanh), TypeError, "is no generator"),
    "no z_dim": (lambda: Cascade(ToyGenerator(), nn.Linear(2, 3)), ValueError, "a Linear has no z_dim"),
    "alike": (lambda: ImageLatents(pictures(1), 4), ValueError, "has 1 images that look alike"),
    "equal": (
        lambda: ImageLatents(pictures(1).repeat(1100, 1, 1, 1), 4),
        ValueError,
        "has 1100 images that look alike",
    ),
    "constant": (lambda: ImageLatents(_constant(), 4), ValueError, "source makes images that look alike"),
    "index": (lambda: ImageLatents(ToyGenerator(), 4).index(gaussian(2)), ValueError, "index is for stored images"),
    "weight norm": (lambda: ImageLatents(_old_weight_norm(), 4), ValueError, "source cannot be frozen.*weight_norm"),
    "plain source": (lambda: ImageLatents(nn.Linear(2, 3), 4), ValueError, "source is a Linear without z_dim"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


def test_one_image_that_differs_is_enough():
    made = pictures(1).repeat(1100, 1, 1, 1)
    made[-1, :, 0, 0] ^= 255
    assert not ImageLatents(made, 4).look_alike()
    assert ImageLatents(made[:-1], 4, centered=False).look_alike()
    assert ImageLatents(_constant(), 4, centered=False).look_alike()
    assert not ImageLatents(ToyGenerator(), 4).look_alike()
