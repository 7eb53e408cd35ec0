"""GANs of examples/gaussians25.py, one per seed, trained side by side as one batched perceptron.

Each seed has the initial weights of the example, random numbers of its own, a ``DiffusionNoise`` whose list and tables
it is diffused by, and an ``AdaptiveT``. The losses are summed over seeds, so no seed sees another's gradient.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from arms import STEPS as T_MAX
from arms import Arm
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus

from gan_regularizers import AdaptiveT, DiffusionNoise, timestep_embedding
from gan_regularizers.diffusion_noise import T_LIST_SIZE

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
from gaussians25 import (
    BATCH,
    BETAS,
    EVAL_SAMPLES,
    LR,
    LR_DECAY,
    MODE_CENTRES,
    MODE_STD,
    MODES,
    Z_DIM,
    measure,
    mlp,
)

EMBEDDED = 16  # numbers of the embedding of t
BLOCK = 100  # steps whose random numbers are drawn at once
COURSE = 12  # evaluations over a training
GRADIENT_SAMPLES, GRADIENT_DRAWS, GRADIENT_STEPS = 128, 64, 11

Weights = list[Tensor]  # of each layer the matrices [S, in, out], then the biases [S, 1, out]


class Levels(NamedTuple):
    """What each seed's noise is drawn from."""

    t_list: Tensor  #: int64 [S, 64]
    gain: Tensor  #: float32 [S, T_max + 1]
    noise_scale: Tensor  #: float32 [S, T_max + 1]

    def at(self, entry: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t, gain and standard deviation of the noise for entries of the lists [S, N], each as [S, N, 1]."""
        return self.of(self.t_list.gather(1, entry))

    def of(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t, gain and standard deviation of the noise at steps [S, N], each as [S, N, 1]."""
        return tuple(value[..., None] for value in (t, self.gain.gather(1, t), self.noise_scale.gather(1, t)))


class Batch(NamedTuple):
    """The random numbers of one step, [S, N, ...]; of entry and eps a third each are for reals, fakes and G's step."""

    z: Tensor
    real: Tensor
    entry: Tensor
    eps: Tensor


def forward(weights: Weights, x: Tensor) -> Tensor:
    """The perceptrons of all seeds on their batches, [S, N, in] to [S, N, out]."""
    layers = list(zip(weights[::2], weights[1::2], strict=True))
    for matrix, bias in layers[:-1]:
        x = leaky_relu(torch.baddbmm(bias, x, matrix), inplace=True)
    matrix, bias = layers[-1]
    return torch.baddbmm(bias, x, matrix)


def stacked(networks: Sequence[nn.Sequential]) -> Weights:
    """Their weights, side by side."""
    columns = zip(*(network.parameters() for network in networks), strict=True)
    weights = (torch.stack([w.detach().T if w.dim() == 2 else w.detach()[None] for w in column]) for column in columns)
    return [value.contiguous().requires_grad_() for value in weights]


def initial(seeds: Sequence[int], tell: str) -> tuple[Weights, Weights]:
    """G and D of every seed, as the example initialises them."""
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        networks.append((mlp(Z_DIM, 2), mlp(2 + (EMBEDDED if tell == "embedding" else 1), 1)))
    return tuple(stacked(column) for column in zip(*networks, strict=True))


def judge(D: Weights, y: Tensor, t: Tensor, tell: str) -> Tensor:
    """D's logits [S, N] on what was diffused to steps t [S, N, 1]."""
    if tell == "embedding":
        told = timestep_embedding(t[..., 0], EMBEDDED)
    else:
        told = t / T_MAX if tell == "raw" else torch.zeros_like(t, dtype=y.dtype)
    return forward(D, torch.cat([y, told], dim=2))[..., 0]


def batches(seeds: Sequence[int]) -> Iterator[Batch]:
    """Random numbers for one step after another, drawn for each seed from a stream of its own."""
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def block(stream: torch.Generator) -> Batch:
        def normals(count: int, width: int) -> Tensor:
            return torch.randn(BLOCK, count, width, generator=stream)

        mode = torch.randint(MODES, (BLOCK, BATCH), generator=stream)
        real = MODE_CENTRES[mode] + MODE_STD * normals(BATCH, 2)
        entry = torch.randint(T_LIST_SIZE, (BLOCK, 3 * BATCH), generator=stream)
        return Batch(normals(BATCH, Z_DIM), real, entry, normals(3 * BATCH, 2))

    while True:
        blocks = [torch.stack(values, dim=1) for values in zip(*map(block, streams), strict=True)]
        for values in zip(*blocks, strict=True):
            yield Batch(*values)


class Noise:
    """The noise of an arm: a ``DiffusionNoise`` and an ``AdaptiveT`` per seed, or one level for all."""

    def __init__(self, arm: Arm, seeds: Sequence[int]) -> None:
        self.arm = arm
        settings = arm.noise or {"noise_std": 0.0}
        self.chains = [DiffusionNoise(T_MAX, seed=seed, **settings) for seed in seeds]
        start = {"initial_p": 1.0} if arm.target is None else {"target": arm.target}
        self.controls = [AdaptiveT(chain, **start) for chain in self.chains] if arm.noise is not None else []
        self.levels = self._levels()

    def _levels(self) -> Levels:
        if self.arm.noise is None:
            shape = len(self.chains), T_MAX + 1
            t_list = torch.zeros(len(self.chains), T_LIST_SIZE, dtype=torch.int64)
            return Levels(t_list, torch.ones(shape), torch.full(shape, self.arm.fixed_std))
        tables = [torch.stack([getattr(chain, name) for chain in self.chains]) for name in Levels._fields]
        levels = Levels(*tables)
        return levels._replace(gain=torch.ones_like(levels.gain)) if self.arm.unit_gain else levels

    def follow(self, step: int, real_logits: Tensor) -> None:
        """Move every chain by its control, or draw its list anew as often where p is fixed."""
        if self.arm.target is None:
            moved = (step + 1) % self.controls[0].interval == 0
            for chain in self.chains if moved else ():
                chain.set_p(1.0, redraw=True)
        else:
            moved = False
            for control, chain, logits in zip(self.controls, self.chains, real_logits, strict=True):
                chain.drawn_from = True  # through its tables, which it does not see
                control.observe(logits)
                moved |= control.step(BATCH)
        if moved:
            self.levels = self._levels()

    @property
    def T(self) -> list[int]:  # noqa: N802
        """The length of every chain; 0 where there is none."""
        return [chain.T if self.controls else 0 for chain in self.chains]


def step_d(D: Weights, optimizer: torch.optim.Optimizer, fake: Tensor, batch: Batch, noise: Noise) -> Tensor:
    """The example's step of D, for all seeds; returns the logits of the reals, [S, BATCH]."""
    t, gain, std = noise.levels.at(batch.entry[:, : 2 * BATCH])
    x = torch.cat([batch.real, fake.detach()], dim=1)
    logits = judge(D, gain * x + std * batch.eps[:, : 2 * BATCH], t, noise.arm.tell)
    real, fake = logits.chunk(2, dim=1)
    descend(D, optimizer, softplus(-real).mean(1).sum() + softplus(fake).mean(1).sum())
    return real.detach()


def step_g(D: Weights, G: Weights, optimizer: torch.optim.Optimizer, fake: Tensor, batch: Batch, noise: Noise) -> None:
    """The example's step of G, for all seeds."""
    t, gain, std = noise.levels.at(batch.entry[:, 2 * BATCH :])
    logits = judge(D, gain * fake + std * batch.eps[:, 2 * BATCH :], t, noise.arm.tell)
    descend(G, optimizer, softplus(-logits).mean(1).sum())


def descend(weights: Weights, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.grad = gradient
    optimizer.step()


def train(arm: Arm, seeds: Sequence[int], steps: int) -> list[dict[str, Any]]:
    """Train one GAN per seed; modes, good samples and T over time, and D's gradient midway and at the end."""
    torch.set_num_threads(1)
    G, D = initial(seeds, arm.tell)
    noise = Noise(arm, seeds)
    g_optimizer, d_optimizer = (torch.optim.Adam(net, LR, BETAS, fused=True) for net in (G, D))
    courses: list[dict[str, list]] = [{"modes": [], "good": [], "T": []} for _ in seeds]
    gradients = {}
    for step, batch in zip(range(steps), batches(seeds), strict=False):
        for optimizer in (g_optimizer, d_optimizer):
            optimizer.param_groups[0]["lr"] = LR * min(1.0, (1.0 - step / steps) / LR_DECAY)
        fake = forward(G, batch.z)
        real_logits = step_d(D, d_optimizer, fake, batch, noise)
        step_g(D, G, g_optimizer, fake, batch, noise)
        if noise.controls:
            noise.follow(step, real_logits)
        if (step + 1) * COURSE // steps > step * COURSE // steps:
            for course, samples, T in zip(courses, sample(G, seeds), noise.T, strict=True):
                for name, value in {**measure(samples), "T": T}.items():
                    course[name].append(value)
        if step + 1 in (steps // 2, steps):
            gradients["end" if step + 1 == steps else "midway"] = gradient_by_t(G, D, noise, seeds)
    return [
        {**{name: values[-1] for name, values in course.items()}, "course": course}
        | {"gradient": {when: rows[i] for when, rows in gradients.items()}}
        for i, course in enumerate(courses)
    ]


def sample(G: Weights, seeds: Sequence[int], count: int = EVAL_SAMPLES) -> Tensor:
    """Samples of every G, [S, count, 2], from the same z whenever it is asked."""
    z = [torch.randn(count, Z_DIM, generator=torch.Generator().manual_seed(10_000 + seed)) for seed in seeds]
    with torch.no_grad():
        return forward(G, torch.stack(z))


def gradient_by_t(G: Weights, D: Weights, noise: Noise, seeds: Sequence[int]) -> list[list[dict[str, float]]]:
    """For every seed, what D's gradient tells G at each of some steps t.

    At samples x of G, g = d/dx of G's loss through the noise of step t, for one draw of it. ``signal`` is the norm of
    g's mean over draws, without what the finite number of draws adds to it, ``noise`` the root of the trace of its
    covariance; both are root mean squares over x.
    """
    streams = [torch.Generator().manual_seed(20_000 + seed) for seed in seeds]
    x = sample(G, seeds, GRADIENT_SAMPLES)
    rows: list[list[dict[str, float]]] = [[] for _ in seeds]
    longest = max(noise.T)
    for t in [round(i * longest / (GRADIENT_STEPS - 1)) for i in range(GRADIENT_STEPS)] if longest else [0]:
        steps, gain, std = noise.levels.of(torch.full(x.shape[:2], t))
        steps, gain, std, there = (value.repeat_interleave(GRADIENT_DRAWS, dim=1) for value in (steps, gain, std, x))
        eps = torch.stack([torch.randn(there.shape[1:], generator=stream) for stream in streams])
        there = there.clone().requires_grad_()
        loss = softplus(-judge(D, gain * there + std * eps, steps, noise.arm.tell)).sum()
        g = torch.autograd.grad(loss, there)[0].unflatten(1, (-1, GRADIENT_DRAWS))
        spread = g.var(dim=2).sum(-1)
        signal = (g.mean(dim=2).square().sum(-1) - spread / GRADIENT_DRAWS).clamp(min=0.0)
        for row, s, n in zip(rows, signal.mean(1).sqrt().tolist(), spread.mean(1).sqrt().tolist(), strict=True):
            row.append({"t": t, "signal": s, "noise": n})
    return rows
