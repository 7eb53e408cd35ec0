"""The Dirac-GAN: eigenvalues against autograd's Jacobian with the module's tables, and trainings with the module."""

import sys
from pathlib import Path

import pytest
import torch

from gan_regularizers import AdaptiveT, DiffusionNoise

ROOT = Path(__file__).parents[1]


@pytest.fixture
def dirac(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "gaussians"))
    monkeypatch.delitem(sys.modules, "dirac", raising=False)
    import dirac

    torch.manual_seed(0)
    return dirac


def chain(sigma: float = 0.5, t_max: int = 20, **settings) -> DiffusionNoise:
    return DiffusionNoise(t_max, noise_std=sigma, **settings)


@pytest.mark.parametrize("tell", ["nothing", "t / T", "slopes", "scaled slopes"])
@pytest.mark.parametrize("settings", [{}, {"clean_share": 0.0}, {"distribution": "priority", "parity": "paper"}])
def test_the_jacobian_is_autograds(dirac, tell, settings):
    m = dirac.mixture(chain(**settings), tell)
    at = torch.zeros(1 + m.features.shape[1], dtype=torch.float64)
    measured = torch.autograd.functional.jacobian(lambda state: dirac.field(state, m, 0.3), at)
    torch.testing.assert_close(dirac.jacobian(m, 0.3), measured, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("sigma", "gamma"), [(0.05, 0.0), (0.5, 0.0), (3.0, 0.0), (0.0, 0.0), (0.0, 1.5)])
def test_eigenvalues_of_a_d_that_is_told_nothing(dirac, sigma, gamma):
    noise = chain(sigma, 500)
    m = dirac.mixture(noise)
    r, d = dirac.rotation_and_damping(m, gamma)
    # From the module's tables and the sizes of its list alone.
    assert r == pytest.approx(0.25 + noise.gain[1:].double().mean().item() / 4)
    assert d == pytest.approx(noise.noise_scale[1:].double().square().mean().item() / 8 + gamma / 2)
    expected = [-d + sign * complex(d * d - r * r) ** 0.5 for sign in (1, -1)]
    measured = torch.linalg.eigvals(dirac.jacobian(m, gamma)).tolist()
    for value in expected:
        assert min(abs(value - other) for other in measured) < 1e-6
    assert (max(value.real for value in measured) < 0) == (d > 0)


@pytest.mark.parametrize("tell", ["t / T", "slopes", "scaled slopes"])
def test_a_chain_converges_whatever_d_is_told_but_is_damped_less_the_more_it_is_told(dirac, tell):
    m = dirac.mixture(chain(0.2, 500), tell)
    values = torch.linalg.eigvals(dirac.jacobian(m))
    assert values.real.max() < 0
    _, untold = dirac.rotation_and_damping(dirac.mixture(chain(0.2, 500)))
    told = -dirac.turning(values).real
    if tell == "t / T":
        assert told == pytest.approx(untold, rel=0.3)
    else:
        assert told < untold
    if tell == "scaled slopes":  # to first order in sigma^2, E[a^2 s^2] / E[a^2] in place of E[s^2]
        power = m.share * m.gain**2
        assert told == pytest.approx(float((power * m.std**2).sum() / power.sum()) / 4, rel=0.05)


def test_steps_converge_up_to_the_largest_one(dirac):
    J = dirac.jacobian(dirac.mixture(chain(0.5, 500)))
    largest = dirac.largest_step(J)
    for factor, converges in ((0.98, True), (1.02, False)):
        radius = torch.linalg.eigvals(torch.eye(2) + factor * largest * J).abs().max()
        assert (radius < 1) == converges
    assert dirac.largest_step(dirac.jacobian(dirac.fixed(0.0))) == 0.0


def test_training_with_the_module_shrinks_as_the_eigenvalues_say(dirac):
    noise = chain(0.5, 500, clean_share=0.0)
    m = dirac.mixture(noise)
    states = dirac.simulate(dirac.module(noise), torch.ones(501, 1), 600, batch=512)
    radius = states.norm(dim=1)
    _, d = dirac.rotation_and_damping(m)
    # Near the equilibrium; the field is exact, the module draws its noise.
    exact = dirac.trajectory(m, 0.0, 60.0)[::2].norm(dim=1)
    assert radius[600] == pytest.approx(exact[600].item(), abs=0.04)
    assert exact[600] / exact[300] == pytest.approx(torch.exp(torch.tensor(-30 * d)).item(), rel=0.12)


@pytest.mark.parametrize("sigma", [None, 0.05])
def test_training_without_noise_and_with_the_papers_sigma_circles(dirac, sigma):
    source = dirac.fixed(0.0) if sigma is None else chain(sigma, 500)
    states = dirac.simulate(dirac.module(source), torch.ones(501, 1), 600, batch=64)
    assert states[550:].norm(dim=1).min() > 0.93


def test_the_controller_takes_the_noise_away(dirac):
    noise = chain(0.5, 500)
    control = AdaptiveT(noise, target=0.6, kimg=5.0, initial_p=1.0)
    dirac.simulate(dirac.module(noise), torch.ones(501, 1), 120, batch=64, control=control)
    assert abs(float(control.r_d)) < 0.4
    assert noise.T == noise.t_min == 10
    start, end = (dirac.rotation_and_damping(dirac.chain(0.5, p=p))[1] for p in (1.0, 0.0))
    assert end < 0.1 * start


def test_the_page_has_the_table_that_is_computed(dirac):
    page = dirac.PAGE.read_text()
    assert dirac.rewritten(page, {"eigenvalues": dirac.markdown(list(dirac.rows()))}) == page
