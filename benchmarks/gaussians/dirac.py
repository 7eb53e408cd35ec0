"""The Dirac-GAN (Mescheder et al., arXiv 1801.04406) with the chain of DiffusionNoise: Jacobian, field and simulation.

The data are the point 0, G is a point theta, and D(y, t) = (psi . h(t)) y with features h of the step. D descends
E softplus(-D(real)) + softplus(D(fake)) and G ascends it, both with real and fake behind the noise. The table and the
picture of docs/dirac.md are rewritten by::

    python benchmarks/gaussians/dirac.py
"""

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import softplus

from gan_regularizers import AdaptiveT, DiffusionNoise
from gan_regularizers.io import plots

sys.path.append(str(Path(__file__).resolve().parents[1]))
from pages import markdown, rewritten

NODES, WEIGHTS = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(64))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
STEP = 0.1  # of the simulations and of the table
START = (1.0, 0.0)
TIME = 60.0  # of the picture
TELL = ("nothing", "t / T", "slopes", "scaled slopes")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "dirac.md"


class Mixture(NamedTuple):
    """Levels of noise, float64 [L], and what D is told of each, [L, k]."""

    share: Tensor
    gain: Tensor
    std: Tensor
    features: Tensor


def mixture(noise: DiffusionNoise, tell: str = "nothing") -> Mixture:
    """The levels that a module's list is drawn from, with its own tables.

    D is told nothing and has one slope; or t / T, with which its slope is linear in t; or it has a slope for each t,
    which learns as fast as its t is frequent, or, scaled by the root of that, as fast as any other.
    """
    T = noise.T
    share = torch.tensor([noise.clean_share, *((1.0 - noise.clean_share) * noise.t_weights())], dtype=torch.float64)
    steps = torch.arange(T + 1, dtype=torch.float64)
    if tell == "t / T":
        features = torch.stack([torch.ones_like(steps), steps / T], dim=1)
    elif tell == "nothing":
        features = torch.ones(T + 1, 1, dtype=torch.float64)
    else:
        features = torch.eye(T + 1, dtype=torch.float64)
        if tell == "scaled slopes":
            features = features / share.clamp(min=1e-300).sqrt()
    levels = Mixture(share, noise.gain[: T + 1].double(), noise.noise_scale[: T + 1].double(), features)
    return Mixture(*(value[share > 0] for value in levels))


def fixed(std: float) -> Mixture:
    """Instance noise; none with a standard deviation of 0."""
    one = torch.ones(1, dtype=torch.float64)
    return Mixture(one, one, std * one, one[:, None])


def jacobian(m: Mixture, gamma: float = 0.0) -> Tensor:
    """Of the gradient field at theta = 0, psi = 0, in closed form; gamma is the weight of R1."""
    turn = 0.5 * (m.share * m.gain) @ m.features
    damp = -0.5 * m.features.T @ ((m.share * m.std**2)[:, None] * m.features) - gamma * torch.eye(len(turn))
    zero = torch.zeros(1, 1, dtype=torch.float64)
    return torch.cat([torch.cat([zero, turn[None]], 1), torch.cat([-turn[:, None], damp], 1)])


def rotation_and_damping(m: Mixture, gamma: float = 0.0) -> tuple[float, float]:
    """Rotation r and damping d in the eigenvalues -d +- sqrt(d^2 - r^2), for a D with one slope."""
    return float((m.share * m.gain).sum()) / 2, float((m.share * m.std**2).sum()) / 4 + gamma / 2


def field(state: Tensor, m: Mixture, gamma: float = 0.0) -> Tensor:
    """The gradient field at (theta, psi), exact but for the quadrature over the noise."""
    theta, psi = state[0], state[1:]
    slope = (m.features @ psi)[:, None]
    real = m.std[:, None] * NODES
    fake = m.gain[:, None] * theta + real
    weight = m.share[:, None] * WEIGHTS
    to_theta = (weight * torch.sigmoid(slope * fake) * slope * m.gain[:, None]).sum()
    of_slope = (weight * (torch.sigmoid(-slope * real) * real - torch.sigmoid(slope * fake) * fake)).sum(1)
    return torch.cat([to_theta[None], of_slope @ m.features - gamma * psi])


def trajectory(m: Mixture, gamma: float, time: float, step: float = 0.05) -> Tensor:
    """The states that the field leads through from START, by the classical Runge-Kutta method, [time / step, 1 + k]."""
    state = torch.zeros(1 + m.features.shape[1], dtype=torch.float64)
    state[:2] = torch.tensor(START)
    states = [state]
    for _ in range(round(time / step)):
        a = field(state, m, gamma)
        b = field(state + step / 2 * a, m, gamma)
        c = field(state + step / 2 * b, m, gamma)
        d = field(state + step * c, m, gamma)
        state = state + step / 6 * (a + 2 * b + 2 * c + d)
        states.append(state)
    return torch.stack(states)


def simulate(
    noise: Callable[[Tensor], tuple[Tensor, Tensor]],
    features: Tensor,
    steps: int,
    *,
    gamma: float = 0.0,
    batch: int = 1024,
    control: AdaptiveT | None = None,
) -> Tensor:
    """The states of a training from START by autograd, D's step before G's as in practice, [steps + 1, 1 + k].

    ``noise(x)`` returns the noisy x [batch, 1] and its steps t, as ``DiffusionNoise`` does with ``return_t``; features
    are those of every t.
    """
    features = features.float()
    theta = torch.tensor(START[0], requires_grad=True)
    psi = torch.zeros(features.shape[1])
    psi[0] = START[1]
    psi.requires_grad_()

    def judge(x: Tensor) -> Tensor:
        y, t = noise(x)
        return (features[t] @ psi) * y[:, 0]

    states = [torch.cat([theta[None], psi]).detach()]
    for _ in range(steps):
        real = judge(torch.zeros(batch, 1))
        loss = softplus(-real).mean() + softplus(judge(theta.detach().expand(batch, 1))).mean()
        _descend(psi, loss + gamma / 2 * psi.square().sum())
        _descend(theta, -softplus(judge(theta.expand(batch, 1))).mean())
        if control is not None:
            control.observe(real)
            control.step(batch)
        states.append(torch.cat([theta[None], psi]).detach())
    return torch.stack(states)


def _descend(parameter: Tensor, loss: Tensor) -> None:
    (gradient,) = torch.autograd.grad(loss, [parameter])
    with torch.no_grad():
        parameter -= STEP * gradient


def largest_step(J: Tensor) -> float:
    """The step up to which simultaneous gradient steps converge: |1 + h lambda| < 1 for all eigenvalues."""
    values = torch.linalg.eigvals(J)
    return max(0.0, float((-2 * values.real / values.abs() ** 2).min()))


def alternating(J: Tensor, h: float = STEP) -> Tensor:
    """What a step of D and then one of G do to a small state."""
    one = torch.eye(len(J), dtype=J.dtype)
    of_d, of_g = one + h * J, one + h * J
    of_d[0], of_g[1:] = one[0], one[1:]
    return of_g @ of_d


def turning(values: Tensor) -> complex:
    """The eigenvalue of the pair that turns fastest: it is the one that moves theta."""
    return complex(values[values.imag.argmax()])


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    name: str
    levels: Mixture
    gamma: float = 0.0


def chain(sigma: float, tell: str = "nothing", p: float = 1.0, clean_share: float = 0.5) -> Mixture:
    """The levels of a chain of at most 500 steps, linear and uniform as by default."""
    noise = DiffusionNoise(500, noise_std=sigma, clean_share=clean_share)
    noise.set_p(p)
    return mixture(noise, tell)


def cases() -> Iterator[Case]:
    yield Case("nothing", fixed(0.0))
    for sigma in (0.05, 0.5):
        yield Case(f"fixed noise, {sigma}", fixed(sigma))
        yield Case(f"chain, sigma {sigma}, T = 500", chain(sigma))
        yield Case(f"chain, sigma {sigma}, T = 500, clean share 0", chain(sigma, clean_share=0.0))
        yield Case(f"chain, sigma {sigma}, T = 10", chain(sigma, p=0.0))
        for tell in TELL[1:]:
            yield Case(f"chain, sigma {sigma}, T = 500, D told: {tell}", chain(sigma, tell))
    for gamma in (0.1, 1.0):
        yield Case(f"R1, gamma {gamma:g}", fixed(0.0), gamma)


def rows() -> Iterator[dict[str, str]]:
    for case in cases():
        J = jacobian(case.levels, case.gamma)
        value = turning(torch.linalg.eigvals(J))
        # Of the map's eigenvalues that near exp(h lambda); with slow slopes of no effect on theta there are others.
        near = torch.linalg.eigvals(alternating(J))
        shrinks = float(near[(near - np.exp(STEP * value)).abs().argmin()].abs())
        halving = math.log(2) / -math.log(shrinks) if shrinks < 1 - 1e-12 else math.inf
        step = largest_step(J)
        yield {
            "before D": case.name,
            "damping, -Re": _figure(-value.real),
            "rotation, Im": f"{value.imag:.3f}",
            "largest step": _figure(step),
            f"steps of {STEP} to halve theta": "never" if math.isinf(halving) else f"{float(f'{halving:.2g}'):,.0f}",
        }


def _figure(value: float) -> str:
    return "0" if value < 1e-15 else f"{value:.2g}"


def module(source: Mixture | DiffusionNoise) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What ``simulate`` calls: fixed noise, or the module, whose list is drawn anew every four steps of training."""
    if isinstance(source, Mixture):
        return lambda x: (x + float(source.std) * torch.randn_like(x), torch.zeros(len(x), dtype=torch.int64))
    calls = itertools.count(1)

    def diffuse(x: Tensor) -> tuple[Tensor, Tensor]:
        if next(calls) % 12 == 0:
            source.set_p(source.strength, redraw=True)
        return source(x, return_t=True)

    return diffuse


def draw(path: Path) -> None:
    """Where theta and the slope of D go: the exact field as lines, training with the module as dots."""
    noise = {sigma: DiffusionNoise(500, noise_std=sigma) for sigma in (0.05, 0.5)}
    panels = [
        ("nothing", fixed(0.0), fixed(0.0), 0.0),
        ("fixed noise, 0.5", fixed(0.5), fixed(0.5), 0.0),
        ("R1, gamma 1", fixed(0.0), fixed(0.0), 1.0),
        ("chain, sigma 0.05", mixture(noise[0.05]), noise[0.05], 0.0),
        ("chain, sigma 0.5", mixture(noise[0.5]), noise[0.5], 0.0),
        ("chain, sigma 0.5, D told: t / T", mixture(noise[0.5], "t / T"), noise[0.5], 0.0),
    ]
    figure = Figure(figsize=(10.5, 7), layout="constrained")
    for axes, (name, levels, source, gamma) in zip(
        figure.subplots(2, 3, sharex=True, sharey=True).flat, panels, strict=True
    ):
        torch.manual_seed(0)
        exact = trajectory(levels, gamma, TIME)
        trained = simulate(module(source), levels.features, round(TIME / STEP), gamma=gamma)[::3]
        shown = levels.features.mean(0) if len(levels.features) == 1 else levels.features[0]
        axes.plot(exact[:, 0], exact[:, 1:] @ shown, color=plots.BLUE, lw=1.0)
        axes.scatter(trained[:, 0], trained[:, 1:] @ shown.float(), s=5, color=plots.RED, linewidths=0, zorder=3)
        axes.plot(0, 0, "+", color=plots.INK, ms=9)
        axes.set_title(name, fontsize=10)
        axes.set_aspect("equal")
        plots.style(axes)
    for axes in figure.axes[3:]:
        axes.set_xlabel("theta")
    for axes in figure.axes[::3]:
        axes.set_ylabel("slope of D at t = 0")
    plots.save(figure, path)


def main() -> None:
    draw(PAGE.parent / "images" / "dirac.png")
    PAGE.write_text(rewritten(PAGE.read_text(), {"eigenvalues": markdown(list(rows()))}))


if __name__ == "__main__":
    main()
