"""Which part of the chain costs modes: the stacked training is the example's, and the study goes on when stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan_regularizers import DiffusionNoise
from gan_regularizers.diffusion_noise import NoiseParams

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gaussians"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}


@pytest.fixture(autouse=True)
def gaussians(monkeypatch):
    """Its modules lie beside each other, as its scripts find them, and its names are also those of other benchmarks."""
    for folder in (FOLDER, FOLDER.parents[1] / "examples"):
        monkeypatch.syspath_prepend(str(folder))
    names = ("arms", "pages", "report", "study", "stack")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for name in names:
        sys.modules.pop(name, None)


def quick(out: Path, *options: str) -> list[dict]:
    command = [sys.executable, str(FOLDER / "study.py"), "--quick", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (out / "gaussians-parts.jsonl").read_text().splitlines()]


def test_the_study_goes_on_and_adds(tmp_path):
    first = quick(tmp_path, "--arms", "diffusion", "--seeds", "1")
    (tmp_path / "gaussians-parts.jsonl").write_text(json.dumps({**first[0], "good": 2.0}) + "\n")  # to know it again
    both = quick(tmp_path, "--arms", "diffusion,gain-1+untold")
    assert [(run["arm"], run["seed"]) for run in both] == [
        ("diffusion", 0),
        ("diffusion", 1),
        ("gain-1+untold", 0),
        ("gain-1+untold", 1),
    ]
    assert both[0]["good"] == 2.0
    changed = {**both[0], "settings": {**both[0]["settings"], "target": 0.3}}
    (tmp_path / "gaussians-parts.jsonl").write_text(json.dumps(changed) + "\n")
    again = quick(tmp_path, "--arms", "diffusion", "--seeds", "1")
    assert again == first  # other settings: trained anew, with the same numbers
    for run in both:
        assert len(run["course"]["modes"]) == 12
        assert {len(run["gradient"][when]) for when in ("midway", "end")} == {11}


class Replayed(torch.nn.Module):
    """The example's D behind the module's own noise, which goes through the given draw call by call."""

    def __init__(self, d: torch.nn.Module, params: NoiseParams) -> None:
        super().__init__()
        self.d, self.params, self.used = d, params, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn = slice(self.used, self.used + len(x))
        self.used = drawn.stop
        params = NoiseParams(*[None if value is None else value[drawn] for value in self.params])
        return self.d(DiffusionNoise(500)(x, params=params), params.t)


@pytest.mark.parametrize("arm", ["vanilla", "fixed noise", "diffusion", "all-noisy+paper"])
def test_a_stacked_step_is_the_examples(arm):
    import gaussians25
    from arms import ARMS
    from stack import Noise, batches, forward, initial, step_d, step_g

    seeds = (3, 4)
    noise = Noise(ARMS[arm], seeds)
    batch = next(batches(seeds))
    G, D = initial(seeds, "raw")
    optimizers = [torch.optim.SGD(net, 0.1) for net in (D, G)]
    fake = forward(G, batch.z)
    logits = step_d(D, optimizers[0], fake, batch, noise)
    step_g(D, G, optimizers[1], fake, batch, noise)

    for i, seed in enumerate(seeds):
        torch.manual_seed(seed)
        g = gaussians25.mlp(2, 2)
        d = gaussians25.Discriminator()
        t, gain, std = (value[i] for value in noise.levels.at(batch.entry))

        one, fake = Replayed(d, NoiseParams(t[:, 0], gain[:, 0], std[:, 0], None, batch.eps[i])), g(batch.z[i])
        real = gaussians25.step_d(one, torch.optim.SGD(d.parameters(), 0.1), batch.real[i], fake.detach())
        gaussians25.step_g(one, g, torch.optim.SGD(g.parameters(), 0.1), fake)
        torch.testing.assert_close(logits[i], real.detach()[:, 0])
        for net, weights in ((g, G), (d.layers, D)):
            for parameter, weight in zip(net.parameters(), weights, strict=True):
                torch.testing.assert_close(weight[i].T.reshape(parameter.shape), parameter)


def test_a_seed_has_the_same_numbers_beside_others():
    from arms import ARMS
    from stack import train

    alone = train(ARMS["diffusion"], [1], 24)
    beside = train(ARMS["diffusion"], [0, 1], 24)[1:]
    assert alone[0]["course"]["T"] == beside[0]["course"]["T"]
    assert alone[0]["good"] == pytest.approx(beside[0]["good"], abs=1e-3)


def test_levels_are_those_of_the_modules_and_follow_their_controls():
    from arms import ARMS
    from stack import BATCH, Noise

    noise = Noise(ARMS["diffusion"], (0, 1))
    before = noise.levels
    assert noise.T == [10, 10]
    assert (before.noise_scale[0, -1] - 0.1546).abs() < 1e-3
    for step in range(4):
        noise.follow(step, torch.stack([torch.ones(BATCH), -torch.ones(BATCH)]))
    assert noise.T == [13, 10]  # p = 4 * 128 / 100,000
    for i, chain in enumerate(noise.chains):
        assert torch.equal(noise.levels.t_list[i], chain.t_list)
        assert torch.equal(noise.levels.noise_scale[i], chain.noise_scale)
        assert not torch.equal(noise.levels.t_list[i], before.t_list[i])
    one = Noise(ARMS["gain-1+p-1"], (0,))
    before = one.levels
    assert before.gain.eq(1).all()
    one.follow(3, torch.zeros(1, BATCH))
    assert one.T == [500]
    assert not torch.equal(one.levels.t_list, before.t_list)
    assert torch.equal(one.levels.noise_scale, before.noise_scale)


def test_the_design_tells_main_effects_and_pairs_apart():
    from itertools import combinations

    from arms import ARMS, CELLS, DESIGN, FACTORS, changed

    assert len(DESIGN) == 16
    assert ARMS["diffusion"] == changed()
    codes = torch.tensor([[1.0 if factor in CELLS[name] else -1.0 for factor in FACTORS] for name in DESIGN])
    columns = [torch.ones(16), *codes.T, *(codes[:, i] * codes[:, j] for i, j in combinations(range(5), 2))]
    assert torch.equal(torch.stack(columns) @ torch.stack(columns).T, 16 * torch.eye(16))


def test_the_gradients_signal_and_noise_of_a_linear_d():
    import stack
    from arms import Arm

    arm = Arm(None, fixed_std=0.5)
    noise = stack.Noise(arm, (0,))
    G, _ = stack.initial((0,), "raw")
    # D(y) = y_0 + ...: so flat a logistic curve that g is nearly the same whatever the noise: no noise, all signal.
    flat = [torch.tensor([[[1e-3], [0.0], [0.0]]]), torch.zeros(1, 1, 1)]
    ((row,),) = stack.gradient_by_t(G, flat, noise, (0,))
    assert row["t"] == 0
    assert row["signal"] == pytest.approx(0.5e-3, rel=0.01)
    assert row["noise"] < 0.001 * row["signal"]
    # So steep a one about 0 that g is slope or 0, as the sign of y_0 is.
    steep = [torch.tensor([[[1e4], [0.0], [0.0]]]), torch.zeros(1, 1, 1)]
    zero = [torch.zeros(1, 2, 2), torch.zeros(1, 1, 2)]
    ((row,),) = stack.gradient_by_t(zero, steep, noise, (0,))
    assert row["signal"] == pytest.approx(0.5e4, rel=0.1)
    assert row["noise"] == pytest.approx(0.5e4, rel=0.1)


def synthetic(name: str, seed: int) -> dict:
    from arms import CELLS

    factors = CELLS[name]
    modes = 15 + 4 * ("gain-1" in factors) - 2 * (("paper" in factors) == ("untold" in factors)) + (seed - 2)
    return {"arm": name, "seed": seed, "modes": modes, "good": 0.5 + 0.1 * ("untold" in factors)}


def test_effects_of_known_runs():
    from arms import DESIGN
    from report import effect_rows, effects

    runs = [synthetic(name, seed) for name in DESIGN for seed in range(5)]
    found = {effect.factors: effect for effect in effects(runs)}
    assert len(found) == 15
    for factors, effect in found.items():
        expected = {("gain-1",): 4.0, ("paper", "untold"): -2.0}.get(factors, 0.0)
        assert effect.modes == pytest.approx(expected, abs=1e-9)
        assert effect.modes_error == pytest.approx(2 * (2.5 / 80) ** 0.5)  # the seeds' variance is 2.5
        assert effect.good == pytest.approx(0.1 if factors == ("untold",) else 0.0, abs=1e-9)
    table = {row["changed"]: row["modes"] for row in effect_rows(found.values())}
    assert table["gain 1"] == "**+4.0 ± 0.4**"
    assert table["p = 1 throughout"].lstrip("+-") == "0.0 ± 0.4"
    with pytest.raises(ValueError, match="not finished"):
        effects(runs[:-1])


def test_the_preset_is_the_arm_that_was_confirmed():
    import gaussians25
    from arms import ARMS

    from gan_regularizers.diffusion_noise import PRESETS

    spread = gaussians25.sample_reals(100_000).std().item()
    arm, preset = ARMS["slow-0.5+all-noisy"].noise, PRESETS["low_dimensional"]
    assert {name: preset[name] for name in arm} == {**arm, "noise_std": preset["noise_std"]}
    assert preset["noise_std"] * spread == pytest.approx(arm["noise_std"], rel=0.01)


def test_the_page_has_the_tables_of_the_runs():
    import report
    from pages import rewritten

    page = (report.DOCS / "gaussians25.md").read_text()
    assert rewritten(page, report.tables(report.read(report.DOCS / "results" / report.RUNS))) == page


def test_the_runs_were_made_with_the_present_settings():
    from dataclasses import asdict

    import report
    from arms import ARMS
    from study import LENGTH

    for run in report.read(report.DOCS / "results" / report.RUNS):
        assert run["steps"] == LENGTH
        assert run["settings"] == asdict(ARMS[run["arm"]])
