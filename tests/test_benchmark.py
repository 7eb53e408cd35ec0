"""The benchmark: what it runs is right, what it counts is right, and what it writes is whole."""

import gc
import importlib.util
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from gan_regularizers import DiffusionNoise, __version__
from gan_regularizers.commands import main
from gan_regularizers.commands.bench import cases, chart, footprint, machine, report, run, timing
from gan_regularizers.commands.bench.baseline import draw, official_sequence
from gan_regularizers.commands.bench.settings import LAYOUTS, PARTS, SHAPE_SETS, Settings
from gan_regularizers.ops import reference

QUICK = ["bench", "--device", "cpu", "--shapes", "2x3x8x8", "--seconds", "0.001"]
ALL = "color,translation,cutout"
STUB = """
def DiffAugment(x, policy="", channels_first=True):
    assert policy in ("color", "translation", "cutout", "color,translation,cutout")
    return 2 * x
"""


@pytest.fixture(scope="module", autouse=True)
def _freed_memory_goes_back():
    """Other tests of this process need it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "keep_freed_memory", lambda: False)
        yield


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of the official one's name and interface."""
    folder = tmp_path_factory.mktemp("data-efficient-gans")
    (folder / cases.FILE_NAME).write_text(STUB)
    return folder


@pytest.fixture(scope="module")
def finished(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON file of a run to its end."""
    path = tmp_path_factory.mktemp("results") / "here.json"
    options = ["--shapes", "2x3x8x8,2x16x4x4", "--dtypes", "float32,bfloat16", "--parts", ",".join(PARTS)]
    options += ["--layouts", ",".join(LAYOUTS), "--no-compile"]
    assert main([*QUICK, *options, "--official", str(checkout), "--json", str(path)]) == 0
    return path


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape) * 2 - 1


GPU_SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
THIS_PYTHON = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def subject_of(
    part: str, shape: tuple[int, ...] = (3, 3, 8, 6), dtype: str = "float32", layout: str = "contiguous"
) -> cases.Subject:
    return cases.Subject(shape, dtype, layout, part)


def transforms_of(subject: cases.Subject, official=None) -> dict[str, cases.Transform]:
    return cases.transforms(subject, Settings("cpu", (subject.shape,), compile=False), "native", official)


@pytest.mark.parametrize("policy", ["", "color", ALL])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_baseline_is_the_operator_with_the_same_draw(policy, dtype):
    x, noise = images(64, 3, 9, 8).to(dtype), DiffusionNoise()
    params, normals, cutout_size = draw(x, policy, noise)
    y = official_sequence(x, params, normals, cutout_size)
    assert y.dtype == normals.dtype == dtype
    doubled = (v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in params)
    expected = reference.input_transform(x.double(), type(params)(*doubled), normals.double())
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(y.double(), expected, **tolerance)


def test_the_baseline_draws_the_official_distributions():
    x, noise = images(20_000, 1, 9, 8), DiffusionNoise()
    params, normals, cutout_size = draw(x, ALL, noise)
    assert cutout_size == (5, 4)
    for name, low, high in (("brightness", -0.5, 0.5), ("saturation", 0.0, 2.0), ("contrast", 0.5, 1.5)):
        value = getattr(params, name)
        assert low <= value.min() < low + 0.01
        assert high - 0.01 < value.max() < high
    assert [set(column.tolist()) for column in params.shift.T] == [{-1, 0, 1}, {-1, 0, 1}]
    top, bottom, left, right = params.cutout.T
    assert set(top.tolist()) == set(range(-2, 7))
    assert set(left.tolist()) == set(range(-2, 7))
    assert torch.equal(bottom, top + 5)
    assert torch.equal(right, left + 4)
    assert (params.gain == 1).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert normals.std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.usefixtures("seeds_everywhere")
@pytest.mark.parametrize("part", PARTS)
def test_backends_of_ours_give_one_result(part):
    subject = subject_of(part)
    transforms, x = transforms_of(subject), images(*subject.shape)
    results = []
    for name in (cases.OURS, cases.REFERENCE):
        torch.manual_seed(3)
        results.append(transforms[name](x))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    assert not torch.equal(results[0], x)
    assert not torch.equal(transforms[cases.OURS](x), results[0])
    replayed = transforms[cases.REPLAYED]
    assert torch.equal(replayed(x), replayed(x))
    assert not torch.equal(replayed(x), x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", ["noise", "diffused"])
def test_a_feature_map_has_one_t_per_channel(part, layout):
    subject = subject_of(part, (4, 64, 2, 2), layout=layout)
    x = torch.full(subject.shape, 100.0).contiguous(memory_format=cases._MEMORY_FORMATS[layout])
    for name, transform in transforms_of(subject).items():
        gains = (transform(x) / 100).mean(dim=(2, 3))
        assert (gains[0].round(decimals=1).unique()).numel() > 3, name


@pytest.mark.parametrize("channels", [3, 64])
def test_diffused_has_no_clean_sample(channels):
    subject = subject_of("diffused", (64, channels, 4, 4))
    x, transforms = images(*subject.shape), transforms_of(subject)
    assert set(transforms) == {cases.OURS, cases.REPLAYED, cases.REFERENCE, cases.SEQUENCE, cases.REPLAYED_SEQUENCE}
    for name, transform in transforms.items():
        assert bool((transform(x) != x).flatten(2).any(2).all()), name
    replayed = transforms[cases.REPLAYED_SEQUENCE]
    far, flat = torch.full(subject.shape, 1e4), (2, 3)
    torch.testing.assert_close(replayed(far).mean(flat), replayed(far).mean(flat), rtol=1e-3, atol=0)  # the same gains
    assert not torch.equal(replayed(x), replayed(x))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("color", lambda x, y: torch.equal(y[:, :, 0, 0], y[:, :, -1, -1]) and not torch.equal(y, x)),
        ("translation", lambda x, y: torch.equal(y[:, :, 4, 4], x[:, :, 4, 4]) and not torch.equal(y, x)),
        ("cutout", lambda x, y: not torch.equal(y, x)),
    ],
)
def test_parts_do_what_their_names_say(part, changes):
    """To an image of one colour: a colour is one everywhere, a shift leaves the middle, and what is cut away is 0."""
    subject = subject_of(part, (32, 3, 9, 9))
    x = torch.rand(32, 3, 1, 1).expand(subject.shape).contiguous() + 1
    for name in (cases.OURS, cases.REPLAYED, cases.REFERENCE, cases.SEQUENCE):
        y = transforms_of(subject)[name](x)
        assert changes(x, y), name
        if part == "cutout":
            assert set((y / x).unique().tolist()) == {0.0, 1.0}, name


@pytest.mark.parametrize("part", ["noise", "augment"])
def test_the_layout_is_that_of_input_output_and_gradients(part):
    subject = subject_of(part, layout="channels_last")
    batch = cases.batch(subject, "cpu")
    formats = {"memory_format": torch.channels_last}
    unit = batch.in_unit_range()
    for tensor in (batch.x, batch.cotangent, unit.x, unit.cotangent):
        assert tensor.is_contiguous(**formats)
        assert not tensor.is_contiguous()
    for name in (cases.OURS, cases.REPLAYED):
        for mode in cases.PASSES:
            result = cases.call(mode, transforms_of(subject)[name], batch)()
            assert (result if mode == "forward" else result[0]).is_contiguous(**formats)
    assert cases.calls("forward", {}, batch)[cases.CLONE]().is_contiguous(**formats)
    assert cases.batch(subject_of(part), "cpu").x.is_contiguous()


@pytest.mark.parametrize("name", list(cases.LIBRARIES))
@pytest.mark.parametrize("part", ["color", "translation", "cutout", "augment"])
@pytest.mark.filterwarnings("ignore")  # of other people's code
def test_nearest_equivalents_draw_for_each_sample(name, part):
    pytest.importorskip(name)
    subject = subject_of(part, (16, 3, 16, 16))
    transform = transforms_of(subject)[name]
    row = torch.rand(1, 3, 16, 16).expand(subject.shape).contiguous().requires_grad_()
    y = transform(row)
    assert (y.shape, y.dtype) == (row.shape, row.dtype)
    assert len(y.detach().flatten(1).unique(dim=0)) > 8
    assert 0 <= y.min() <= y.max() <= 1
    (slope,) = torch.autograd.grad(y.sum(), row)
    assert bool(slope.any())
    x = torch.full(subject.shape, 0.5)
    y = transform(x + 0.25 if part == "cutout" else x)
    if part == "color":
        assert torch.equal(y, y[:, :, :1, :1].expand_as(y))
    elif part == "translation":
        assert torch.equal(y[:, :, 4:12, 4:12], x[:, :, 4:12, 4:12])
    elif part == "cutout":
        assert torch.equal((y == 0.5).float().mean((1, 2, 3)), torch.full((16,), 0.25))  # grey, a quarter


def test_nearest_equivalents_have_images_from_0_to_1():
    batch = cases.batch(subject_of("color"), "cpu")
    same = {name: lambda x: x for name in (cases.OURS, *cases.LIBRARIES)}
    calls = cases.calls("forward", same, batch)
    assert calls[cases.OURS]() is batch.x
    for name in cases.LIBRARIES:
        torch.testing.assert_close(calls[name]() * 2 - 1, batch.x)
    (gradient,) = cases.calls("forward+backward", same, batch)[cases.KORNIA]()
    assert torch.equal(gradient, batch.cotangent)


def test_libraries_that_are_not_there(tmp_path, monkeypatch, capsys):
    for name in ("kornia.augmentation", "torchvision.transforms.v2"):
        monkeypatch.setitem(sys.modules, name, None)
    cases.equivalents.kornia.cache_clear()
    cases.equivalents.torchvision.cache_clear()
    path = tmp_path / "b.json"
    assert main([*QUICK, "--no-compile", "--parts", "color", "--modes", "forward", "--json", str(path)]) == 0
    (case,) = json.loads(path.read_text())["cases"]
    shown = capsys.readouterr().out
    for name in cases.LIBRARIES:
        assert case["competitors"][name]["median_s"] is None
        assert case["competitors"][name]["reason"].endswith(f"; pip install {name}")
        assert report.row(case)[name] == "-"
        assert name not in report.rows([case])[0]
        assert f"{name} was not timed: import of {name}" in shown


def test_torchvision_does_not_write_beyond_its_memory(monkeypatch):
    """As the backward pass of grid_sample does in torch 2.13 and 2.14, in half precision on the CPU."""
    parts = {name: lambda *_, **__: None for name in ("ColorJitter", "RandomAffine", "RandomErasing")}
    library = SimpleNamespace(**parts, Compose=lambda _: lambda image: image)
    monkeypatch.setattr(cases.equivalents, "_import", lambda _: library)
    torchvision = cases.equivalents.torchvision.__wrapped__
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(torchvision("color,translation")(x), x)
    assert torch.equal(torchvision("color")(x.half()), x.half())
    with pytest.raises(RuntimeError, match="beyond its memory"):
        torchvision("color,translation")(x.half())


def test_the_official_file_gets_the_policy_and_the_noise(checkout):
    official = cases.load_official(checkout)
    assert cases.FILE not in transforms_of(subject_of("noise"), official)
    x = images(16, 3, 8, 6)
    assert torch.equal(transforms_of(subject_of("color", x.shape), official)[cases.FILE](x), 2 * x)
    y = transforms_of(subject_of("all", x.shape), official)[cases.FILE](x)
    clean = torch.tensor([torch.equal(row, 2 * source) for row, source in zip(y, x, strict=True)])
    assert clean.any()
    assert not clean.all()


@pytest.mark.parametrize("mode", list(cases.PASSES))
def test_modes_compute_what_they_say(mode):
    """Through y = x S with a matrix S that is not symmetric."""
    batch = cases.batch(subject_of("all", dtype="float64"), "cpu")
    S = torch.randn(6, 6, dtype=torch.float64)
    result = cases.call(mode, lambda x: x @ S, batch)()
    expected = {
        "forward": lambda: batch.x.detach() @ S,
        "forward+backward": lambda: batch.cotangent @ S.T,
        "r1": lambda: batch.cotangent @ S.T @ S,
    }[mode]()
    torch.testing.assert_close(result if mode == "forward" else result[0], expected)


@pytest.mark.parametrize("mode", list(cases.PASSES))
def test_the_floor_counts_the_passes(mode):
    """Every pass is the map or its transpose once over the batch, as one matrix product here."""
    passes = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, transposed):
            passes.append(x.shape)
            ctx.transposed = transposed
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return Counted.apply(gradient, not ctx.transposed), None

    subject = subject_of("all", dtype="bfloat16")
    cases.call(mode, lambda x: Counted.apply(x, False), cases.batch(subject, "cpu"))()
    assert passes == [subject.shape] * len(passes)
    assert subject.floor_bytes(mode) == len(passes) * 2 * (3 * 3 * 8 * 6) * 2


def no_failure(name: str, error: Exception) -> None:
    raise AssertionError(name) from error


def test_functions_take_turns():
    order: list[str] = []
    times = timing.take_turns({name: lambda name=name: order.append(name) for name in "ab"}, "cpu", 1e-9, no_failure)
    assert "".join(order) == "abbaabbaab"
    assert {name: len(timed.seconds) for name, timed in times.items()} == {"a": 5, "b": 5}
    began = time.monotonic()
    times = timing.take_turns({"a": lambda: time.sleep(0.01), "b": lambda: None}, "cpu", 0.1, no_failure)
    assert time.monotonic() - began >= 0.2
    assert 0.01 <= times["a"].median < 0.1
    assert times["b"].median < 0.005
    assert times["a"].host_median is None


def test_one_that_takes_longer_than_all_others_has_fewer_turns():
    calls = {"fast": lambda: time.sleep(1e-4), "slow": lambda: time.sleep(0.02)}
    times = timing.take_turns(calls, "cpu", 0.2, no_failure)
    assert len(times["slow"].seconds) >= timing.LEAST_ROUNDS
    assert len(times["fast"].seconds) > 2 * len(times["slow"].seconds)


def test_what_fails_while_it_is_timed_has_no_more_turns():
    order: list[str] = []
    failures: dict[str, Exception] = {}

    def b() -> None:
        order.append("b")
        if len(order) > 4:
            raise RuntimeError

    times = timing.take_turns({"a": lambda: order.append("a"), "b": b}, "cpu", 1e-9, failures.__setitem__)
    assert "".join(order) == "abbaabaa"
    assert list(times) == ["a"]
    assert len(times["a"].seconds) == 5
    assert list(failures) == ["b"]


class Machine:
    """A host and a device that works off what the host has launched; launching takes the host its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = self.device = 0.0
        self.flushes = 0
        machine = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = machine.launch(0.0, 0.0)

            def query(self) -> bool:
                return self.at <= machine.host

            def synchronize(self) -> None:
                machine.host = max(machine.host, self.at)

            def elapsed_time(self, end: "Event") -> float:
                assert end.query()
                return 1e3 * (end.at - self.at)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.host)

    def launch(self, host_seconds: float, device_seconds: float) -> float:
        self.host += host_seconds
        self.device = max(self.device, self.host) + device_seconds
        return self.device

    def flush(self) -> None:
        self.flushes += 1
        self.launch(3e-6, 90e-6)

    def kernels(self, number: int, host_seconds: float) -> None:
        for _ in range(number):
            self.launch(host_seconds, 2e-6)


def test_on_cuda_the_device_is_timed_and_the_host_beside_it(monkeypatch):
    machine = Machine(monkeypatch)
    clock = timing._CudaClock(machine.flush)
    flushes = {}
    for number in (4, 44, 440):
        times = timing.Times()
        clock(lambda number=number: machine.kernels(number, 8e-6), times)
        before = machine.flushes
        clock(lambda number=number: machine.kernels(number, 8e-6), times)
        flushes[number] = machine.flushes - before
        assert times.seconds == pytest.approx([number * 2e-6] * 2)
        assert times.host_median == pytest.approx(number * 8e-6)
        assert times.host_bound == 0
    assert 1 < flushes[4] < flushes[44] < flushes[440]
    assert 90e-6 * flushes[440] > 440 * 8e-6


def test_a_slow_host_is_noticed(monkeypatch):
    machine = Machine(monkeypatch)
    clock = timing._CudaClock(machine.flush)

    times = timing.Times()
    hiccups = iter([0, 0, 0, 1, 0, 0])  # six calls for four samples: the first finds out the time
    for _ in range(4):
        clock(lambda: machine.kernels(10, 10e-6 + next(hiccups)), times)
    assert times.seconds == pytest.approx([20e-6] * 4)
    assert (times.host_bound, len(times.host_seconds)) == (0, 6)
    flushes = []
    for _ in range(10):
        before = machine.flushes
        clock(lambda: machine.kernels(10, 10e-6), times)
        flushes.append(machine.flushes - before)
    assert flushes[0] == timing.MOST_FLUSHES
    assert flushes[-1] == 3

    def waits_for_the_device() -> None:
        machine.kernels(10, 10e-6)
        machine.host = machine.device

    times = timing.Times()
    clock(waits_for_the_device, times)
    assert (times.host_bound, len(times.seconds), len(times.host_seconds)) == (1, 1, timing.MOST_TAKES)

    times, before = timing.Times(), machine.flushes
    clock(lambda: machine.kernels(1, 60.0), times)
    assert times.host_bound == 1
    assert machine.flushes - before == 1 + (timing.MOST_TAKES - 1) * timing.MOST_FLUSHES


def test_median_and_quartiles():
    times = timing.Times([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (times.median, times.quartiles) == (3.0, (2.0, 4.0))


def test_peak_memory_is_what_is_held_at_once(capfd):
    x = torch.zeros(1000)

    def step() -> torch.Tensor:
        y = x.clone()
        y = y.clone()
        del y
        return x.new_empty(500)

    footprint.peak_bytes(step, "cpu")
    assert footprint.peak_bytes(step, "cpu") == 8000
    assert footprint.peak_bytes(lambda: x, "cpu") == 0
    assert capfd.readouterr().err == ""
    assert footprint.kernel_launches(step, "cpu") is None


def test_what_was_held_before_does_not_count():
    x = torch.zeros(1000)
    held = []
    footprint.peak_bytes(lambda: held.append(x.clone()), "cpu")
    assert footprint.peak_bytes(lambda: (held.clear(), x.clone()), "cpu") == 4000


def test_no_garbage_is_freed_in_the_middle_of_a_call():
    collects = []
    footprint.peak_bytes(lambda: collects.append(gc.isenabled()), "cpu")
    assert collects == [False]
    assert gc.isenabled()


def test_an_interrupt_waits_for_the_profiler():
    """One that comes while torch starts or stops its profiler would end in a segmentation fault."""
    calls = []

    def call() -> None:
        signal.raise_signal(signal.SIGINT)
        calls.append("ended")

    with pytest.raises(KeyboardInterrupt):
        footprint.peak_bytes(call, "cpu")
    assert calls == ["ended"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(footprint.peak_bytes, torch.zeros(1000).clone, "cpu").result() == 4000


def test_launches_are_counted_on_the_host(monkeypatch):
    """The names that the profiler gives to the launches of eager torch, of clusters and of Triton."""
    names = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cudaMemcpyAsync", "cudaDeviceSynchronize")
    trace = [{"cat": "cuda_runtime", "name": name, "args": {"correlation": i}} for i, name in enumerate(names)]
    trace += [{"cat": "cuda_driver", "name": "cuLaunchKernelEx", "args": {"correlation": i}} for i in (1, 8)]
    trace += [{"cat": "kernel", "name": "fill", "args": {"correlation": 8}}, {"name": "process_name"}]
    monkeypatch.setattr(footprint, "_trace", lambda *_: trace)
    assert footprint.kernel_launches(lambda: None, "cuda") == 3
    del trace[:-1]
    assert footprint.kernel_launches(lambda: None, "cuda") is None


def test_the_driver_has_a_version_or_none(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for status, version in ((0, "580.65.06"), (9, None)):
        program.write_text(f"#!/bin/sh\necho 580.65.06\nexit {status}\n")
        program.chmod(0o755)
        assert machine._driver() == version


def test_the_file_is_complete(finished):
    result = json.loads(finished.read_text())
    assert result["complete"]
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert result["machine"]["device"]
    assert result["versions"]["gan_regularizers"] == __version__
    assert result["versions"]["torch"] == torch.__version__
    assert result["backend"]["name"] in ("reference", "native")
    assert result["settings"]["official_file"]
    assert result["versions"].keys() >= cases.LIBRARIES.keys()
    keys = [(tuple(c["shape"]), c["dtype"], c["layout"], c["part"], c["mode"]) for c in result["cases"]]
    dtypes, modes = ("float32", "bfloat16"), ("forward", "forward+backward", "r1")
    assert keys == [
        *itertools.product([(2, 3, 8, 8)], dtypes, LAYOUTS, PARTS, modes),
        *itertools.product([(2, 16, 4, 4)], dtypes, LAYOUTS, ["noise", "diffused"], modes),
    ]
    for case in result["cases"]:
        assert case["threads"] == torch.get_num_threads()
        names = {cases.OURS, cases.REPLAYED, cases.SEQUENCE, cases.CLONE}
        if case["part"] == "diffused":
            names.add(cases.REPLAYED_SEQUENCE)
        elif case["part"] != "noise":
            names |= {cases.FILE} if case["part"] == "all" else {cases.FILE, *cases.LIBRARIES}
        if result["backend"]["name"] != "reference":
            names.add(cases.REFERENCE)
        assert set(case["competitors"]) == names
        copy = case["competitors"][cases.CLONE]
        assert copy["percent_of_clone"] == pytest.approx(100)
        assert copy["peak_tensors"] == 1
        for name, figures in case["competitors"].items():
            if name in cases.LIBRARIES and figures["median_s"] is None:
                assert figures["reason"]
                continue
            moved = case["floor_bytes"] / (1 if name != cases.CLONE else cases.PASSES[case["mode"]])
            low, high = figures["quartiles_s"]
            assert 0 < low <= figures["median_s"] <= high
            assert figures["repeats"] >= timing.LEAST_ROUNDS
            assert figures["gb_per_s"] == pytest.approx(moved / figures["median_s"] / 1e9)
            assert figures["percent_of_clone"] == pytest.approx(100 * figures["gb_per_s"] / copy["gb_per_s"])
            ours = case["competitors"][cases.OURS]["median_s"]
            assert figures["times_ours"] == pytest.approx(figures["median_s"] / ours)
            assert figures["launches"] is figures["host_median_s"] is None
            assert figures["host_bound_repeats"] == 0
            if name != cases.CLONE:
                assert figures["peak_tensors"] >= 1


def test_a_narrow_charts_title_and_legend_stay_inside(finished, tmp_path, monkeypatch):
    """One mode makes one column of panels; all libraries make the longest title, and diffused the longest name."""
    figures = []
    monkeypatch.setattr(chart.plots, "save", lambda figure, _: figures.append(figure))
    result = json.loads(finished.read_text())
    result["cases"] = [case for case in result["cases"] if case["mode"] == "forward"]
    result["versions"] |= {"torch": "2.14.1+cu130", "kornia": "0.9.0", "torchvision": "0.29.1"}
    chart.save(tmp_path / "narrow.png", result)
    (figure,) = figures
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert cases.REPLAYED_SEQUENCE in [text.get_text() for text in legend.get_texts()]
    for part in (figure._suptitle, legend):
        extent = part.get_window_extent()
        assert extent.x0 >= 0
        assert extent.x1 <= figure.bbox.width
        assert extent.y0 >= 0


def test_the_chart_is_written_beside_it(finished):
    with Image.open(finished.with_suffix(".png")) as picture:
        assert picture.width > 1000
        assert len(picture.getcolors(1 << 20)) > 20
    assert sorted(path.name for path in finished.parent.iterdir()) == ["here.json", "here.png"]


def test_without_files_there_is_the_table(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*QUICK, "--no-compile", "--parts", "color", "--modes", "forward,r1"]) == 0
    shown = capsys.readouterr().out
    rows = [line.split()[0] for line in shown.splitlines() if line.startswith(("forward ", "r1 "))]
    assert rows == ["forward", "r1"]
    assert "\n2x3x8x8 float32, color" in shown
    assert "Incomplete" not in shown
    assert not list(tmp_path.iterdir())


def load_tables() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "tables.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    return tables


def test_the_tables_of_the_documentation(finished):
    tables = load_tables()
    page = f"Before\n{tables.BEGIN}\nold\n{tables.END}\nAfter\n"
    empty = tables.rewritten(page, [])
    assert tables.NO_RESULTS in empty
    assert "old" not in empty
    full = tables.rewritten(empty, [tables.section(finished)])
    assert full.startswith("Before\n")
    assert full.endswith("\nAfter\n")
    assert "here.png)" in full
    result = json.loads(finished.read_text())
    rows = [line for line in full.splitlines() if line.startswith("| 2x")]
    assert len(rows) == len(result["cases"])
    header = next(line for line in full.splitlines() if line.startswith("| batch "))
    columns = [cell.strip() for cell in header.split("|")[2:-1]]
    assert "torchvision" in columns or importlib.util.find_spec("torchvision") is None
    assert not {"threads", "compile", "autotune", "host ms", "kernels"} & set(columns)
    for row, case in zip(rows, result["cases"], strict=True):
        cells = report.row(case)
        assert [cell.strip() for cell in row.split("|")[1:-1]] == [report.batch_name(case), *map(cells.get, columns)]
        assert ("channels_last" in row) == (case["layout"] == "channels_last")
    assert tables.rewritten(full, [tables.section(finished)]) == full
    cut_short = finished.parent / "cut.json"
    cut_short.write_text(json.dumps({**result, "complete": False}))
    with pytest.raises(ValueError, match=r"cut\.json is of a run that was cut short"):
        tables.section(cut_short)
    cut_short.unlink()


def test_the_baseline_compiles_and_what_it_cannot_do_is_recorded(tmp_path, monkeypatch):
    """Without inductor, which takes its time. No backend of torch.compile has a second derivative."""
    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **_: compiler(f, fullgraph=True, dynamic=False, backend="aot_eager")
    )
    path = tmp_path / "b.json"
    assert main([*QUICK, "--parts", "all", "--json", str(path)]) == 0
    records = json.loads(path.read_text())["cases"]
    *able, unable = (case["competitors"][cases.COMPILED] for case in records)
    assert all(figures["median_s"] > 0 for figures in able)
    assert unable["median_s"] is None
    assert unable["reason"]
    assert [report.row(case)["compile"] == "-" for case in records] == [False, False, True]

    subject = subject_of("all")
    transforms = cases.transforms(subject, Settings("cpu", (subject.shape,)), "reference", None)
    x, results = images(*subject.shape), []
    for name in (cases.COMPILED, cases.SEQUENCE):
        torch.manual_seed(5)
        results.append(transforms[name](x))
    torch.testing.assert_close(*results)


def test_what_a_result_of_cuda_shows_beside(finished, tmp_path):
    """Made up: the figures that only CUDA has, and the compiler's other mode, which cannot do r1."""
    result = json.loads(finished.read_text())
    result["settings"] |= {"device": "cuda", "autotune": True}
    result["versions"] |= {"cuda": "13.0", "driver": None}
    for case in result["cases"]:
        figures = case["competitors"]
        figures[cases.OURS] |= {"host_median_s": 41.23e-6, "launches": 5, "gb_per_s": 2345.6}
        figures[cases.SEQUENCE] |= {"host_median_s": 0.9e-3, "launches": 63}
        able = {**figures[cases.SEQUENCE], "times_ours": 2.5}
        figures[cases.AUTOTUNED] = {"median_s": None, "reason": "no"} if case["mode"] == "r1" else able
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(result))

    tables = load_tables()
    heading, rows = tables.section(path).split("\n\n")[1:]
    assert "threads" not in heading
    assert ", CUDA 13.0, driver unknown, " in heading
    header, _, *rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()]
    assert header[-3:] == ["memory", "host ms", "kernels"]
    assert "threads" not in header
    for row, case in zip(rows, result["cases"], strict=True):
        assert row[header.index("autotune")] == ("-" if case["mode"] == "r1" else "2.5x")
        assert row[-2:] == ["0.0412/0.9", "5/63"]
        assert row[header.index("GB/s")] == "2350"
    assert "autotune" not in tables.summary(path)

    chart.save(tmp_path / "gpu.png", result)
    with Image.open(tmp_path / "gpu.png") as picture, Image.open(finished.with_suffix(".png")) as without:
        assert picture.height > without.height


def test_the_compiler_at_its_utmost(monkeypatch):
    """The modes asked for; what they make of it takes a GPU."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: asked.append(options.get("mode")) or f)
    subject = subject_of("all")
    for autotune in (False, True):
        settings = Settings("cpu", (subject.shape,), autotune=autotune)
        assert (cases.AUTOTUNED in cases.transforms(subject, settings, "native", None)) == autotune
    assert asked == [None, None, "max-autotune-no-cudagraphs"]


def test_a_competitor_that_runs_out_of_memory_is_left_out(tmp_path, monkeypatch):
    calls = []

    def sequence(x, *_):
        calls.append(x)
        if len(calls) > timing.WARM_UP_CALLS + 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 TiB")
        return x.clone()

    monkeypatch.setattr(cases, "official_sequence", sequence)
    path = tmp_path / "b.json"
    assert main([*QUICK, "--no-compile", "--parts", "color", "--modes", "forward", "--json", str(path)]) == 0
    (case,) = json.loads(path.read_text())["cases"]
    assert case["competitors"][cases.SEQUENCE] == {"median_s": None, "reason": "CUDA out of memory."}
    assert report.row(case)["eager"] == "-"
    assert report.row(case)["memory"].endswith("/-")


def test_a_failure_of_ours_ends_the_run(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no memory\nmore about it")

    monkeypatch.setattr("gan_regularizers.InputRegularizer.forward", fail)
    assert main([*QUICK, "--no-compile", "--parts", "color"]) == 1
    assert capsys.readouterr().err == "gan-regularizers: gan_regularizers on 2x3x8x8 float32: no memory\n"


def test_an_interrupted_run_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    measure, calls = run.measure, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(run, "measure", interrupted)
    path = tmp_path / "b.json"
    assert main([*QUICK, "--no-compile", "--json", str(path), "--chart", str(tmp_path / "c.png")]) == 130
    result = json.loads(path.read_text())
    assert not result["complete"]
    assert [case["mode"] for case in result["cases"]] == ["forward", "forward+backward"]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    out, err = capsys.readouterr()
    assert "Incomplete" in out
    assert err == "gan-regularizers: interrupted\n"


def test_ctrl_c(tmp_path):
    path = tmp_path / "b.json"
    options = ["--shapes", "2x3x8x8", "--seconds", "0.3", "--no-compile", "--device", "cpu", "--json", path]
    running = subprocess.Popen(
        [sys.executable, "-m", "gan_regularizers", "bench", *options, "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    while not path.exists() and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "gan-regularizers: interrupted\n")
    assert "1 threads" in out
    result = json.loads(path.read_text())
    assert not result["complete"]
    assert 1 <= len(result["cases"]) < 9
    assert result["keeps_freed_memory"] == (platform.libc_ver()[0] == "glibc")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shapes", "64x3x256"], "'64x3x256' is no shape; write batch"),
        (["--shapes", "2x3x8x8,"], "'' is no shape"),
        (["--shapes", "0x3x8x8"], "'0x3x8x8' is no shape"),
        (["--shapes", "2x3x8x-8"], "is no shape"),
        (["--dtypes", "float32,int8"], "'int8' is unknown; choose one of float32, float16, bfloat16"),
        (["--parts", "colour"], "'colour' is unknown"),
        (["--layouts", "NHWC"], "'NHWC' is unknown; choose one of contiguous, channels_last"),
        (["--shapes", "projectedgan"], "or one of projected_gan, projected_gan_mixed"),
        (["--threads", "1,x"], "'x'"),
        (["--modes", "backward"], "'backward' is unknown"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--seconds", "0"], "is outside (0, inf)"),
        (["--threads", "0"], "is outside [1, inf)"),
    ],
)
def test_options_that_cannot_be_read(options, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*QUICK, *options])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_sets_of_shapes_have_names(tmp_path):
    path = tmp_path / "b.json"
    options = ["--shapes", "16x320x8x8,projected_gan", "--no-compile", "--modes", "forward", "--json", str(path)]
    assert main([*QUICK, *options]) == 0
    shapes = [tuple(case["shape"]) for case in json.loads(path.read_text())["cases"]]
    assert shapes == [(16, 320, 8, 8), *SHAPE_SETS["projected_gan"][:-1]]


def test_numbers_of_threads_are_timed_beside_each_other(tmp_path, capsys):
    path, before = tmp_path / "b.json", torch.get_num_threads()
    options = ["--threads", "2,1", "--parts", "diffused", "--no-compile", "--json", str(path)]
    try:
        assert main([*QUICK, *options]) == 0
    finally:
        torch.set_num_threads(before)
    result = json.loads(path.read_text())
    assert result["settings"]["threads"] == [2, 1]
    keys = [(case["mode"], case["threads"]) for case in result["cases"]]
    assert keys == [*itertools.product(["forward", "forward+backward", "r1"], [2, 1])]
    assert "2 and 1 threads" in report.heading(result)
    rows = report.rows(result["cases"])
    assert [(row["mode"], int(row["threads"])) for row in rows] == keys
    for row, case in zip(rows, result["cases"], strict=True):
        figures = (case["competitors"][name] for name in (cases.REPLAYED, cases.REPLAYED_SEQUENCE))
        expected = [1e9 * figure["median_s"] * case["threads"] / (2 * 3 * 8 * 8) for figure in figures]
        if case["mode"] == "forward":
            assert list(map(float, row["ns"].split("/"))) == pytest.approx(expected, rel=0.01)
        else:
            assert row["ns"] == "-"
    assert "threads" not in report.rows(result["cases"][::2])[0]
    assert "forward, 2 threads: " in capsys.readouterr().out
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.height > 300


def test_every_column_is_explained(finished):
    page = (Path(__file__).parents[1] / "docs" / "performance.md").read_text()
    _, _, after = page.partition("## What the columns mean")
    table, _, _ = after.partition("## Results")
    named = {
        name.strip() for line in table.splitlines() if line.startswith("| ") for name in line.split("|")[1].split(",")
    }
    case = json.loads(finished.read_text())["cases"][0]
    assert report.row(case).keys() - {"part", "mode"} <= named
    _, _, after = page.partition("## What is timed")
    parts = {line.split("|")[1].strip() for line in after.splitlines() if line.startswith("| ")}
    assert {*PARTS, *cases.PASSES, *cases.LIBRARIES} <= parts


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json", "no/such/b.json"], "--json no/such/b.json: its folder does not exist"),
        (["--json", "b.txt"], "b.txt does not end in .json"),
        (["--json", "folder.json"], "folder.json: it is a folder"),
        (["--chart", "no/such/b.png"], "--chart no/such/b.png: its folder does not exist"),
        (["--chart", "b.jpg"], "b.jpg does not end in .png"),
        (["--official", "folder.json"], "holds no DiffAugment_pytorch.py"),
        (["--official", "broken"], "cannot be imported: SyntaxError"),
        (["--official", "other"], "defines no DiffAugment"),
        (["--shapes", "2x16x8x8", "--parts", "color,all"], "nothing to time"),
        (["--shapes", f"{2**40}x3x512x512"], f"--shapes {2**40}x3x512x512: "),
        (["--autotune"], "--autotune and --no-compile contradict each other; leave one of them out"),
    ],
)
def test_runs_that_cannot_begin(options, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    for name, content in {"broken": "def", "other": "x = 1"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / cases.FILE_NAME).write_text(content)
    before = sorted(tmp_path.rglob("*"))
    assert main([*QUICK, "--no-compile", *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts] == before


def test_threads_are_of_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["bench", "--device", "cuda", "--threads", "1,2"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("--threads is for the CPU, but this run is on --device cuda; leave it out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(capsys):
    assert main(["bench", "--device", "cuda"]) == 1
    assert "--device cuda, but torch finds no CUDA device" in capsys.readouterr().err


def test_the_cpu_has_no_modes_of_the_compiler(capsys):
    assert main([*QUICK, "--autotune"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("--autotune is for CUDA, but this run is on --device cpu; leave it out or use --device cuda")


def test_a_backend_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr("gan_regularizers.ops._choice", "gpu")
    assert main(QUICK) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "'gpu' is no backend" in line


@pytest.mark.parametrize("steps", [(), ("nothing",), ("bench=float64",), ("test", "sanitize=all")])
def test_the_script_for_gpus_knows_its_steps_before_it_does_anything(tmp_path, steps):
    done = subprocess.run(["bash", GPU_SCRIPT, tmp_path / "results", *steps], capture_output=True, text=True)
    assert done.returncode == 2
    assert "sanitize=TOOL" in done.stdout
    assert not (tmp_path / "results").exists()


def test_the_script_for_gpus_leaves_figures_and_output(tmp_path):
    line = ["bash", GPU_SCRIPT, tmp_path, f"share={tmp_path}"]
    done = subprocess.run(line, capture_output=True, text=True, env={**THIS_PYTHON, "device": "cpu"})
    assert done.returncode == 1
    assert "== share ended with 1" in done.stdout
    assert str(tmp_path) in next(tmp_path.glob("share-*.txt")).read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_script_for_gpus_needs_one(tmp_path):
    done = subprocess.run(["bash", GPU_SCRIPT, tmp_path, "test"], capture_output=True, text=True, env=THIS_PYTHON)
    assert done.returncode == 1
    assert done.stderr.endswith("gpu.sh: torch finds no CUDA device\n")
