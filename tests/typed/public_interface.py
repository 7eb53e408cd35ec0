"""What a type checker makes of the public interface. It is checked, never run."""

import contextlib

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

from gan_regularizers import (
    AdaptiveT,
    BackendWarning,
    DiffAugment,
    DiffusionNoise,
    InputRegularizer,
    StatisticWarning,
    WrapWarning,
    regularizer_of,
    same_draw,
    timestep_embedding,
    unwrap,
    use_backend,
    wrap,
)
from gan_regularizers.spider import ImageLatents


class Discriminator(nn.Module):
    """Has an attribute of its own, which wrapping keeps."""

    features: Tensor


def a_run(images: Tensor, generator: torch.Generator) -> None:
    """Wrap a discriminator, train with it and save what adapts."""
    D = wrap(Discriminator(), DiffAugment(), None, DiffusionNoise(), lambda x: x.flip(3), inputs=("img", 0), tell="d.0")
    assert_type(D, Discriminator)
    assert_type(D.features, Tensor)

    adapt = AdaptiveT(D, target=0.6, interval=4, kimg=100, midpoint=0, real_sign=-1, p_max=0.25, initial_p=0)
    assert_type(adapt.observe(D(images), fake_logits=[D(images)]), None)
    assert_type(adapt.step(len(images)), bool)
    assert_type(adapt.p, Tensor)
    assert_type(adapt.r_d, Tensor)
    assert_type(adapt.T, int)
    assert_type(adapt.target, float)
    assert_type(adapt.noise, DiffusionNoise)
    adapt.load_state_dict(adapt.state_dict())

    regularizer = regularizer_of(D)
    assert_type(regularizer, InputRegularizer)
    assert_type(regularizer.augment, DiffAugment | None)
    assert_type(regularizer.noise, DiffusionNoise | None)
    regularizer.enabled = False
    with regularizer.off():
        D(images)
    regularizer.forward(images, params=regularizer.sample(images, generator=generator))
    with same_draw(D) as draw:
        D(images)
    assert_type(draw.calls[-1].images[0], Tensor)
    assert_type(draw.calls[-1].t, Tensor | None)
    assert_type(unwrap(D), nn.Module)


def the_parts(images: Tensor) -> None:
    """Use each part alone."""
    augment = DiffAugment("color,cutout", brightness=(0, 1), cutout=0.2, value_range=(0, 1), channels=slice(3), p=0.8)
    params = augment.sample(images)
    assert_type(augment.forward(images, params=params), Tensor)
    assert_type(augment.policy, str)
    assert_type(augment.active, bool)
    assert_type(DiffAugment.preset("stylegan2", cutout=0.3), DiffAugment)

    noise = DiffusionNoise(1000, t_min=10, distribution="priority", clean_share="adaptive", per_channel=True)
    noise.forward(images, t=3, return_t=True, params=noise.sample(images, alpha_bar=0.5))
    assert_type(noise.set_p(0.5, redraw=True), None)
    assert_type(noise.t_list, Tensor)
    assert_type(noise.t_max, int)
    assert_type(noise.alpha_bar(), np.ndarray)
    assert_type(DiffusionNoise.preset("projected_gan"), DiffusionNoise)
    assert_type(timestep_embedding(torch.arange(3), 32, kind="sinusoidal", max_period=100), Tensor)

    latents = ImageLatents(images, z_dim=512)
    latents(torch.randn(16, 512))


def the_backend() -> None:
    """Choose it, and know the warnings."""
    with use_backend("native"), contextlib.suppress(BackendWarning, StatisticWarning, WrapWarning):
        pass
