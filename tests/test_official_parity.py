"""Official parity against numbers that the authors' own code gave: noise levels, draws of t, the courses of p and T.

official_diffusion_gan.json holds the numbers, their settings and the commit; "host" is the code's tree and our preset.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from gan_regularizers import AdaptiveT, DiffusionNoise

OFFICIAL = json.loads(Path(__file__).with_name("official_diffusion_gan.json").read_text())


def cases(kind: str) -> list:
    return [pytest.param(case, id=f"{case['host']}-{i}") for i, case in enumerate(OFFICIAL[kind])]


def noise_of(case: dict, **settings) -> DiffusionNoise:
    return DiffusionNoise.preset(case["host"], **{**case["settings"], **settings})


def at_strength(case: dict, **settings) -> DiffusionNoise:
    noise = noise_of(case, **settings)
    noise.set_p(case["p"])
    assert int(noise.T) == case["T"]
    return noise


def draw_counts(case: dict, parity: str) -> tuple[np.ndarray, np.ndarray]:
    """The noisy steps of as many lists as the official code drew, and how many of them fall between its edges."""
    lists = [at_strength(case, parity=parity, seed=seed).t_list.numpy() for seed in range(case["lists"])]
    steps = np.concatenate(lists)
    steps = steps[steps > 0]
    return steps, np.histogram(steps, np.array(case["edges"]) + 0.5)[0]


def same_distribution(counts: np.ndarray, others: np.ndarray) -> float:
    """The p-value of the chi-square test that two samples have one distribution."""
    table = np.stack([counts, others])
    return stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue


def logits_with(signs: int) -> torch.Tensor:
    """An interval's logits whose signs sum to ``signs``, with one of exactly 0 where the sum is odd."""
    count = OFFICIAL["logits_per_batch"] * OFFICIAL["interval"]
    positive, zero = (count + signs) // 2, signs % 2
    parts = (torch.full((positive,), 0.7), torch.zeros(zero), torch.full((count - positive - zero,), -1.3))
    return torch.cat(parts)


@pytest.mark.parametrize("case", cases("tables"))
def test_noise_levels(case):
    """The official tables are float32 all along: 1 - alpha_bar keeps an error of 1e-7, its root near t = 0 of 2e-6."""
    noise, t = at_strength(case), case["t"]
    gain, noise_scale = np.array(case["alpha_bar_sqrt"]), np.array(case["one_minus_alpha_bar_sqrt"])
    np.testing.assert_allclose(noise.alpha_bar()[t], gain**2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(noise.gain[t], gain, rtol=0, atol=1e-6)
    ours = noise.noise_scale[t].double().numpy() / noise.noise_std
    np.testing.assert_allclose(ours**2, noise_scale**2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours, noise_scale, rtol=0, atol=3e-6)


@pytest.mark.parametrize("case", cases("probabilities"))
def test_probabilities_of_the_steps(case):
    weights = at_strength(case).t_weights()
    np.testing.assert_allclose(weights[np.array(case["t"]) - 1], case["probability"], rtol=1e-12)


@pytest.mark.parametrize("case", cases("noisy_entries"))
def test_noisy_entries_of_the_list(case):
    """The strengths include those where 64 p lies halfway between two integers."""
    noise = noise_of(case)
    for p, entries in zip(case["p"], case["entries"], strict=True):
        noise.set_p(p)
        assert len(noise.t_list) == 64
        assert int((noise.t_list > 0).sum()) == entries


@pytest.mark.parametrize("case", cases("draws"))
def test_draws_of_the_steps(case):
    steps, counts = draw_counts(case, "official")
    theirs = np.array(case["counts"])
    assert len(steps) == theirs.sum()
    assert same_distribution(counts, theirs) > 1e-3
    error = 4 * steps.std() * (2 / len(steps)) ** 0.5
    assert steps.mean() == pytest.approx(case["mean"], abs=error)
    np.testing.assert_allclose(np.quantile(steps, (0.25, 0.5, 0.75)), case["quartiles"], atol=max(1, 2 * error))


@pytest.mark.parametrize("T", [10, 39])
def test_draws_tell_the_weights_of_the_paper_apart(T):
    """Weights of t in place of t - 1 differ by little on long chains; on short ones the test of the draws sees them."""
    priority = (case for case in OFFICIAL["draws"] if case["settings"]["distribution"] == "priority")
    case = next(case for case in priority if case["T"] == T)
    _, counts = draw_counts(case, "paper")
    assert same_distribution(counts, np.array(case["counts"])) < 1e-20


@pytest.mark.filterwarnings("ignore:AdaptiveT. p has reached its cap")
@pytest.mark.parametrize("case", cases("runs"))
def test_course(case):
    """The way past both ends, at the target itself and with all-real signs.

    T keeps 0.003 or more from where it would round the other way, ten times what float32 does to p.
    """
    noise = noise_of(case)
    adapt = AdaptiveT(noise, target=case["target"], kimg=case["kimg"], interval=OFFICIAL["interval"])
    noise(torch.zeros(1, 1))  # a noise that never ran would be noticed
    p, lengths, entries, lists = [], [], [], [noise.t_list.clone()]
    for signs in case["signs"]:
        for logits in logits_with(signs).split(OFFICIAL["logits_per_batch"]):
            adapt.observe(logits)
            adapt.step(case["batch_size"])
        p.append(float(adapt.p))
        lengths.append(int(adapt.T))
        entries.append(int((noise.t_list > 0).sum()))
        lists.append(noise.t_list.clone())
    np.testing.assert_allclose(p, case["p"], rtol=0, atol=1e-6)
    assert lengths == case["T"]
    assert entries == case.get("noisy_entries", [32] * len(lengths))
    if "lists_drawn" in case:
        assert sum(not torch.equal(*pair) for pair in itertools.pairwise(lists)) == case["lists_drawn"]
