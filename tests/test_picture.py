"""What of a batch is picture: ranges of values, and channels as Python's own slices select them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_regularizers.picture import Picture

BOUNDS = st.none() | st.integers(-6, 6)


def batch(channels: int) -> torch.Tensor:
    return torch.zeros(2, channels, 3, 3)


def test_all_of_images_in_the_usual_range_by_default():
    picture = Picture()
    assert (picture.centre, picture.half_range, picture.channels_of(batch(4))) == (0.0, 1.0, None)


@pytest.mark.parametrize(
    ("value_range", "centre", "half_range"), [((0, 1), 0.5, 0.5), ((0, 255), 127.5, 127.5), ([-0.5, 1.5], 0.5, 1.0)]
)
def test_value_range(value_range, centre, half_range):
    picture = Picture(value_range)
    assert (picture.centre, picture.half_range) == (centre, half_range)


@given(BOUNDS, BOUNDS, st.sampled_from((None, 1)), st.integers(1, 5))
def test_channels_are_those_that_the_slice_selects(start, stop, step, channels):
    selected = range(channels)[start:stop:step]
    picture = Picture(channels=slice(start, stop, step))
    if selected:
        assert picture.channels_of(batch(channels)) == (selected[0], selected[-1] + 1)
    else:
        with pytest.raises(ValueError, match=rf"channels=slice.* selects none .*\[2, {channels}, 3, 3\]; pass a slice"):
            picture.channels_of(batch(channels))


def test_a_range_of_channels():
    assert Picture(channels=range(1, 3)).channels_of(batch(4)) == (1, 3)
    assert Picture(channels=range(4)).channels_of(batch(3)) == (0, 3)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        *(({"value_range": value}, TypeError) for value in (1.0, (0.0,), (0, 1, 2), ("0", "1"), (None, 1), "01")),
        *(({"value_range": value}, ValueError) for value in ((1, 1), (1, 0), (0, math.inf), (math.nan, 1))),
        *(({"channels": value}, TypeError) for value in (3, (0, 3), [0, 1], "rgb", slice(0.5, 2), slice(None, "3"))),
        *(
            ({"channels": value}, ValueError)
            for value in (slice(0, 3, 2), slice(3, 0, -1), range(0, 4, 2), range(-1, 3))
        ),
    ],
)
def test_bad_settings_are_named(settings, error):
    with pytest.raises(error, match=f"{next(iter(settings))}="):
        Picture(**settings)


@pytest.mark.parametrize("channels", [slice(0, 3), slice(None, -1), range(3)])
def test_compiled(channels):
    """Also for a number of channels that varies."""
    picture = Picture(channels=channels)
    compiled = torch.compile(
        lambda x: x[:, slice(*picture.channels_of(x))] * picture.half_range, backend="eager", dynamic=True
    )
    for count in (4, 5):
        x = torch.rand(2, count, 3, 3)
        assert torch.equal(compiled(x), x[:, channels.start : channels.stop])
