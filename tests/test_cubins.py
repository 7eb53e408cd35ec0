"""The images of the CUDA kernels: NVRTC, which makes them, their cache, and what each device is told."""

import ctypes
import hashlib
import pwd
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import torch
from kernel_calls import on_cuda
from stand_in import StandIn, own_kernels
from test_operator import PARTS, make_case

from gan_regularizers import DiffAugment, DiffusionNoise, InputRegularizer, ops
from gan_regularizers.commands import main
from gan_regularizers.io import files
from gan_regularizers.kernels import cubins
from gan_regularizers.kernels.cubins import Cubins, architecture_for
from gan_regularizers.kernels.nvrtc import Nvrtc, NvrtcError, find
from gan_regularizers.ops import TransformParams, native
from gan_regularizers.ops.cuda import Devices

kernels_module = pytest.importorskip(
    "gan_regularizers.kernels._kernels", reason="the kernels are not built", exc_type=ImportError
)
KERNELS = kernels_module.cuda.kernels()
MAJORS = (12, 13)


@pytest.fixture(params=MAJORS)
def nvrtc(request) -> Nvrtc:
    return nvrtc_of(request.param)


def nvrtc_of(major: int) -> Nvrtc:
    try:
        return find(major)
    except NvrtcError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own for every test."""
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def of_sm_90(nvrtc: Nvrtc, package: Path) -> Cubins:
    return Cubins(KERNELS, 90, 13, lambda: nvrtc, package)


def never() -> Nvrtc:
    raise NvrtcError("NVRTC was asked for")


def test_there_is_a_kernel_for_every_kind_of_pass():
    assert len(KERNELS) == len(set(KERNELS.values())) >= 22
    assert "draw" in KERNELS


@pytest.mark.parametrize("kernel", ["draw", "rgb_float16_nchw", "flat_bfloat16"])
def test_a_kernel_compiles_for_the_ends_of_what_a_compiler_knows(nvrtc, kernel):
    """CI compiles all of them for all architectures."""
    for architecture in (nvrtc.architectures[0], 90, nvrtc.architectures[-1]):
        image = cubins.compile_kernel(KERNELS[kernel], nvrtc, architecture)
        assert image[:4] == b"\x7fELF"
        assert f"gan_regularizers_{kernel}".encode() in image


def test_what_blocks_exchange_is_volatile_on_a_gpu(nvrtc, monkeypatch):
    """The emulation has a type of its own for it."""
    get = nvrtc._get
    monkeypatch.setattr(nvrtc, "_get", lambda what, program: get("PTX" if what == "CUBIN" else what, program))
    for kernel in ("flat_float32", "channels_float16_nhwc", "rgb_bfloat16_nchw", "mixed_float32_nchw"):
        ptx = cubins.compile_kernel(KERNELS[kernel], nvrtc, 80).decode()
        # A kernel waits for slices, reads their sums and writes some.
        for access in ("ld.volatile.global.u32", "ld.volatile.global.f32", "st.volatile.global.f32"):
            assert access in ptx


def test_half_precision_is_converted_by_instructions(nvrtc, monkeypatch):
    get = nvrtc._get
    monkeypatch.setattr(nvrtc, "_get", lambda what, program: get("PTX" if what == "CUBIN" else what, program))
    for dtype, packed in (("float16", "cvt.rn.f16x2.f32"), ("bfloat16", "cvt.rn.bf16x2.f32")):
        line = KERNELS[f"flat_{dtype}"]
        assert packed in cubins.compile_kernel(line, nvrtc, 80).decode()
        assert packed not in cubins.compile_kernel(line, nvrtc, 75).decode()


def test_a_compiler_that_fails_says_its_first_error(nvrtc):
    with pytest.raises(
        NvrtcError, match=rf"^NVRTC {nvrtc} failed for sm_90: .*error: identifier \"nothing\" is undefined"
    ):
        nvrtc.compile("__global__ void f() { nothing(); also_nothing(); }", {}, 90)
    with pytest.raises(NvrtcError, match=r"failed for sm_41: .*gpu-architecture"):
        nvrtc.compile("", {}, 41)


def test_without_a_compiler_one_is_told_what_to_install(tmp_path, monkeypatch):
    find.cache_clear()
    packages = {11: "nvidia-cuda-nvrtc-cu11", 12: "nvidia-cuda-nvrtc-cu12", 13: "nvidia-cuda-nvrtc==13.*"}
    monkeypatch.delenv("GAN_REGULARIZERS_NVRTC", raising=False)
    with mock.patch("gan_regularizers.kernels.nvrtc._candidates", return_value=[]):
        for major, package in {**packages, None: "nvidia-cuda-nvrtc"}.items():
            with pytest.raises(NvrtcError) as error:
                find(major)
            assert str(error.value).endswith(f"run: pip install '{package}'")
    monkeypatch.setenv("GAN_REGULARIZERS_NVRTC", str(tmp_path))
    with pytest.raises(NvrtcError, match=r"; let GAN_REGULARIZERS_NVRTC name one$"):
        find()
    junk = tmp_path / "libnvrtc.so.13"
    junk.write_bytes(b"junk")
    monkeypatch.setenv("GAN_REGULARIZERS_NVRTC", str(junk))
    with pytest.raises(NvrtcError, match=rf"{junk} is no NVRTC that can be used \(.*file too short"):
        find()
    monkeypatch.setenv("GAN_REGULARIZERS_NVRTC", kernels_module.__file__)  # a library, but another
    with pytest.raises(NvrtcError, match="undefined symbol: nvrtcVersion"):
        find()
    find.cache_clear()


def test_a_compiler_of_another_cuda_is_passed_over(nvrtc, monkeypatch):
    find.cache_clear()
    monkeypatch.setenv("GAN_REGULARIZERS_NVRTC", str(nvrtc.path.parent))
    other = sum(MAJORS) - nvrtc.version[0]
    with pytest.raises(NvrtcError, match=rf"no NVRTC of CUDA {other} was found.*is of CUDA {nvrtc}"):
        find(other)
    assert find().version == nvrtc.version
    find.cache_clear()


@pytest.mark.parametrize(
    ("capability", "known", "best"),
    [
        (90, (75, 80, 90), 90),
        (86, (75, 80, 90), 80),  # of its kind, and older
        (89, (75, 80, 86, 90), 86),
        (80, (75, 86, 90), None),
        (121, (75, 120), 120),
        (87, (80, 86), None),  # embedded devices run their own images alone
        (87, (80, 87), 87),
        (89, (80, 87), 80),
        (70, (75, 80), None),
        (130, (90, 120), None),
    ],
)
def test_the_best_architecture_for_a_device(capability, known, best):
    assert architecture_for(capability, known) == best


def test_what_no_image_can_be_made_for(tmp_path):
    nvrtc = nvrtc_of(13)
    for capability, word in ((37, "an older"), (990, "a newer")):
        with pytest.raises(
            NvrtcError, match=rf"knows no architecture sm_{capability} \(it knows sm_75, .*{word} CUDA$"
        ):
            Cubins(KERNELS, capability, 13, lambda: nvrtc, tmp_path)
    with pytest.raises(NvrtcError, match=r"driver is for CUDA 12 and NVRTC of CUDA 13\.\d; install a newer driver"):
        Cubins(KERNELS, 90, 12, lambda: nvrtc, tmp_path)
    with pytest.raises(NvrtcError, match="NVRTC was asked for"):
        Cubins(KERNELS, 90, 13, never, tmp_path)


def test_an_image_is_compiled_once_and_kept(tmp_path, cache, monkeypatch):
    nvrtc = nvrtc_of(13)
    first = of_sm_90(nvrtc, tmp_path)
    image = first.image("draw")
    assert first.seconds > 0
    (kept,) = cache.rglob("*.cubin")
    assert kept.read_bytes() == image + hashlib.sha256(image).digest()
    assert kept.relative_to(cache).parts[1:] == (f"nvrtc-{nvrtc}", "sm_90", "draw.cubin")
    monkeypatch.setattr(Nvrtc, "compile", lambda *_: pytest.fail("compiled again"))
    second = of_sm_90(nvrtc, tmp_path)
    assert second.image("draw") == image
    assert second.seconds == 0


@pytest.mark.parametrize("rotten", ["empty", "cut", "zeros", "a bit"])
def test_an_image_that_is_not_sound_is_made_again(tmp_path, cache, rotten):
    nvrtc = nvrtc_of(13)
    image = of_sm_90(nvrtc, tmp_path).image("draw")
    (kept,) = cache.rglob("*.cubin")
    sound = kept.read_bytes()
    zeros = sound[:64].ljust(len(sound), b"\0")
    flipped = sound[:99] + bytes([sound[99] ^ 1]) + sound[100:]
    kept.write_bytes({"empty": b"", "cut": sound[:-100], "zeros": zeros, "a bit": flipped}[rotten])
    assert of_sm_90(nvrtc, tmp_path).image("draw") == image
    assert kept.read_bytes() == sound


@pytest.mark.parametrize(
    ("blocked", "said"),
    [
        ("a file", "they cannot be kept in "),
        ("no folder", "they cannot be kept in /proc/none "),
        ("no home", "there is no home to keep them in, which GAN_REGULARIZERS_CACHE would give them"),
    ],
)
def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, cache, blocked, said, monkeypatch, capsys):
    nvrtc = nvrtc_of(13)
    if blocked == "a file":
        cache.write_text("in the way")
    elif blocked == "no folder":
        monkeypatch.setenv(files.CACHE_VARIABLE, "/proc/none")
    else:  # of a user whom the system does not know
        for name in (files.CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", mock.Mock(side_effect=KeyError))
    monkeypatch.setattr(cubins, "_SAID_AFTER", 0.0)
    images = of_sm_90(nvrtc, tmp_path)
    assert images.image("draw") == images.image("draw")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gan_regularizers compiles its CUDA kernels at their first use; {said}")


def test_compiling_is_said_once_where_it_takes_long(tmp_path, cache, monkeypatch, capsys):
    images = of_sm_90(nvrtc_of(13), tmp_path)
    monkeypatch.setattr(cubins, "_SAID_AFTER", 1e9)
    images.image("draw")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cubins, "_SAID_AFTER", 0.0)
    for kernel in ("flat_float32", "flat_float16", "draw"):
        images.image(kernel)
    said = f"gan_regularizers compiles its CUDA kernels at their first use; they are kept in {cache}\n"
    assert capsys.readouterr().err == said


def test_a_cache_raced_by_processes(tmp_path, cache):
    nvrtc_of(13)
    script = (
        "import sys, pathlib, gan_regularizers.kernels.cubins as c; from gan_regularizers.kernels import _kernels; "
        "from gan_regularizers.kernels.nvrtc import find\n"
        "images = c.Cubins(_kernels.cuda.kernels(), 90, 13, lambda: find(13), pathlib.Path(sys.argv[1]))\n"
        "sys.stdin.readline(); sys.stdout.buffer.write(images.image('draw'))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    results = {process.communicate()[0] for process in processes}
    (kept,) = (path for path in cache.rglob("*") if path.is_file())
    assert results == {cubins._read(kept)}


def test_images_depend_on_what_they_are_made_of(monkeypatch):
    before = cubins.digest(KERNELS)
    assert cubins.digest({**KERNELS, "draw": "GR_DRAW(other)"}) != before
    monkeypatch.setattr(cubins, "_OPTIONS", ())
    assert cubins.digest(KERNELS) != before


def test_what_includes_are_there_is_all_that_is_included():
    texts = cubins._texts()
    included = {
        line.split('"')[1] for text in texts.values() for line in text.splitlines() if line.startswith('#include "')
    }
    assert included == set(cubins._HEADERS)


def test_images_that_are_shipped_need_no_compiler(tmp_path, cache):
    nvrtc, few = nvrtc_of(13), {name: KERNELS[name] for name in ("draw", "flat_float32")}
    assert cubins.make(tmp_path / cubins.SHIPPED, few, (75, 80), nvrtc) == 4
    assert cubins.make(tmp_path / cubins.SHIPPED, few, (75, 80), nvrtc) == 0
    for capability, architecture in ((75, 75), (86, 80)):
        images = Cubins(few, capability, 13, never, tmp_path)
        assert images.image("draw") == cubins.compile_kernel(few["draw"], nvrtc, architecture)
        assert images.origin == f"sm_{architecture} in {tmp_path / cubins.SHIPPED}"
    for capability, driver in ((90, 13), (86, 12)):  # another device, and a driver that does not load them
        with pytest.raises(NvrtcError, match="NVRTC was asked for"):
            Cubins(few, capability, driver, never, tmp_path)
    shipped = next((tmp_path / cubins.SHIPPED).rglob("sm_80/draw.cubin"))
    shipped.write_bytes(shipped.read_bytes()[:1000])
    with pytest.raises(NvrtcError, match="NVRTC was asked for"):
        Cubins(few, 80, 13, never, tmp_path)
    assert not cache.exists()


def test_the_command_makes_images(monkeypatch, capsys):
    nvrtc_of(13)
    monkeypatch.setattr(cubins, "make_shipped", lambda package, *_: package.name == "gan_regularizers" and 7)
    assert main(["build", "--cuda-archs", "75,90"]) == 0
    assert "sm_75, sm_90 by NVRTC 13." in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["build", "--cuda-archs", "10"]) == 1
    assert "knows no sm_10; it knows 75, 80" in capsys.readouterr().err


@pytest.fixture
def launcher(tmp_path) -> ModuleType:
    return own_kernels(tmp_path)


@pytest.fixture
def devices(driver, launcher, monkeypatch) -> Devices:
    """Two devices of different kinds, on a torch that is built for CUDA 13."""
    nvrtc_of(13)
    capabilities = [(9, 0), (7, 5)]
    monkeypatch.setattr("gan_regularizers.ops.cuda._DRIVER", str(driver.path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    for name, function in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: 1,
        "get_device_capability": lambda index: capabilities[index],
        "get_device_name": lambda index: f"Stand-in {index}",
        "is_current_stream_capturing": lambda: False,
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    found = Devices(launcher)
    monkeypatch.setattr(native, "cuda_devices", found)
    monkeypatch.setattr(native, "_unbuilt", "")
    monkeypatch.setattr(ops, "_warned", set())
    return found


def test_devices_run_images_of_their_own(devices, launcher, driver, cache):
    case = make_case((2, 3, 40, 44), PARTS, dtype=torch.float32)
    assert devices.missing(0) == devices.missing(None) == ""
    assert ops.backend("cuda:0") == ops.backend("cuda") == ("native", "the kernels are there")
    results = [on_cuda(launcher, case.x, case.params, device=device) for device in (0, 1)]
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], case.expected().float(), rtol=5e-6, atol=5e-6)
    architectures = {path.parent.name for path in cache.rglob("*.cubin")}
    assert architectures == {"sm_90", "sm_75"}
    assert driver.count("launches on 0") == driver.count("launches on 1") == 1


def test_the_operator_launches_what_a_device_has(devices, driver, monkeypatch):
    """Regularizers in training, with the launcher for tensors of the CPU: R1's gradient, in three launches."""
    regularizer = InputRegularizer(DiffAugment(), DiffusionNoise(clean_share=0.0))
    x, D = torch.rand(2, 3, 72, 80, requires_grad=True), torch.nn.Conv2d(3, 1, 3)
    words = ops.random_words((9, 2), x.device)
    results = []
    for on_device in (False, True):
        if on_device:
            monkeypatch.setattr(native, "_kernels_for", lambda _: (devices.kernels_on(0), (0, 0)))
        with mock.patch("gan_regularizers.regularizer.random_words", lambda *_: words):
            y = regularizer(x)
        (gradient,) = torch.autograd.grad(D(y).square().sum(), x, create_graph=True)
        penalties = torch.autograd.grad(gradient.square().sum(), [x, D.weight])
        results.append((y, gradient, *penalties))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(results[0][0], results[1][0])  # the other normals' logarithms
    # The draw, forward, backward, and backward of both.
    assert driver.count("cuLaunchKernel") == 5


def test_a_kernel_that_does_not_compile_later_says_what_to_do(devices, monkeypatch):
    assert devices.missing(0) == ""
    monkeypatch.setattr(cubins, "_texts", lambda: {cubins._SOURCE: "int broken = ;"})
    with pytest.raises(
        RuntimeError, match=r"the kernel flat_float32 cannot be made for cuda:0: .*BACKEND=reference does"
    ):
        on_cuda(devices.kernels_on(0), torch.rand(1, 1, 2, 2), TransformParams(gain=torch.ones(1)))


def test_a_second_process_compiles_nothing(devices, tmp_path_factory, monkeypatch):
    assert devices.missing(0) == ""
    monkeypatch.setattr(Nvrtc, "compile", lambda *_: pytest.fail("compiled again"))
    again = Devices(own_kernels(tmp_path_factory.mktemp("again")))
    assert again.missing(0) == ""
    assert again[0].cubins.seconds == 0


def no_driver(monkeypatch: pytest.MonkeyPatch, _driver: StandIn) -> None:
    monkeypatch.setattr("gan_regularizers.ops.cuda._DRIVER", "libnone.so")


def old_driver(_: pytest.MonkeyPatch, driver: StandIn) -> None:
    driver.set("version", 12080)


def driver_without_devices(_: pytest.MonkeyPatch, driver: StandIn) -> None:
    driver.set("cuInit", 100)


def no_device(monkeypatch: pytest.MonkeyPatch, _driver: StandIn) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def rocm(monkeypatch: pytest.MonkeyPatch, _driver: StandIn) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")


def cpu_torch(monkeypatch: pytest.MonkeyPatch, _driver: StandIn) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)


def unknown_architecture(monkeypatch: pytest.MonkeyPatch, _driver: StandIn) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))


def no_compiler(monkeypatch: pytest.MonkeyPatch, _driver: StandIn) -> None:
    monkeypatch.setattr("gan_regularizers.ops.cuda.find", lambda _: never())


def failed_compilation(monkeypatch: pytest.MonkeyPatch, _driver: StandIn) -> None:
    monkeypatch.setattr(cubins, "_texts", lambda: {cubins._SOURCE: "int broken = ;"})


def no_sources(monkeypatch: pytest.MonkeyPatch, _driver: StandIn) -> None:
    monkeypatch.setattr(
        cubins, "_texts", mock.Mock(side_effect=FileNotFoundError(2, "No such file", "kernels_cuda.cu"))
    )


def failed_load(_: pytest.MonkeyPatch, driver: StandIn) -> None:
    driver.set("cuModuleLoadData", 209)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (no_driver, r"no NVIDIA driver was found \(libnone\.so.*; install it"),
        (old_driver, r"the NVIDIA driver is for CUDA 12 and NVRTC of CUDA 13.*; install a newer driver, or a torch"),
        (driver_without_devices, r"starting the driver, .* failed: CUDA_ERROR_100"),
        (no_device, r"torch finds no CUDA device that it can use"),
        (rocm, r"this torch is built for AMD's ROCm, and the kernels are for CUDA"),
        (cpu_torch, r"this torch is built without CUDA"),
        (unknown_architecture, r"NVRTC 13\.\d knows no architecture sm_70 .*; install a torch for an older CUDA"),
        (no_compiler, r"NVRTC was asked for"),
        (failed_compilation, r"NVRTC 13\.\d failed for sm_75: kernels_cuda\.cu\(1\): error: "),
        (no_sources, r"No such file: 'kernels_cuda.cu'"),
        (failed_load, r"loading the kernel draw failed: CUDA_ERROR_209"),
    ],
)
def test_a_device_that_cannot_run_them_is_found_out(devices, driver, monkeypatch, failure, said, capsys):
    failure(monkeypatch, driver)
    name, reason = ops.backend("cuda")
    assert name == "reference"
    with pytest.raises(RuntimeError, match=f"'native', but .*{said}"), ops.use_backend("native"):
        ops.backend("cuda")
    assert main(["info"]) == 0
    assert reason.rpartition(": ")[2] in capsys.readouterr().out
    monkeypatch.setattr(devices, "_look_at", lambda _: pytest.fail("looked at again"))
    assert ops.backend("cuda") == ("reference", reason)


def test_what_may_pass_is_no_verdict(devices, driver):
    driver.set("cuModuleLoadData", 2)  # out of memory
    with pytest.raises(RuntimeError, match="CUDA_ERROR_2 "):
        ops.backend("cuda")
    driver.set("cuModuleLoadData", 0)
    assert ops.backend("cuda")[0] == "native"
    assert devices[1].missing == ""


def test_a_second_thread_waits_for_the_verdict(devices, driver, monkeypatch):
    driver.set("cuModuleLoadData", 209)
    compiling, compile_kernel = threading.Event(), cubins.compile_kernel

    def slowly(*arguments: object) -> bytes:
        compiling.set()
        time.sleep(0.2)
        return compile_kernel(*arguments)

    monkeypatch.setattr(cubins, "compile_kernel", slowly)
    verdicts = []
    threads = [threading.Thread(target=lambda: verdicts.append(ops.backend("cuda:0")[0])) for _ in range(2)]
    threads[0].start()
    compiling.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert verdicts == ["reference"] * 2
    assert "CUDA_ERROR_209" in devices.missing(0)


def test_an_interrupt_is_no_verdict(devices, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(cubins, "compile_kernel", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ops.backend("cuda:0")
    assert ops.backend("cuda:0")[0] == "native"
    assert devices[0].missing == ""


def test_each_device_has_its_own_verdict(devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(7, 0), (9, 0)][index])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert [ops.backend(f"cuda:{index}")[0] for index in (0, 1)] == ["reference", "native"]
    for index, reference in ((0, True), (1, False)):
        x = mock.Mock(spec=torch.Tensor, device=torch.device("cuda", index), dtype=torch.float32)
        assert ops.runs_reference(x) == reference
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked again"))
    assert ops.backend("cuda:1")[0] == "native"
    assert devices._image("draw", 1) == cubins.compile_kernel(KERNELS["draw"], devices.nvrtc(), 90)


@pytest.mark.usefixtures("devices")
def test_a_device_is_not_judged_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"have not run on cuda:0 yet.*run the step once before it is captured"):
        ops.backend("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert ops.backend("cuda:0")[0] == "native"


def test_the_choice_of_the_reference_looks_at_no_device(devices, monkeypatch):
    monkeypatch.setattr(devices, "missing", lambda _: pytest.fail("looked at"))
    with ops.use_backend("reference"):
        assert ops.backend("cuda")[0] == "reference"


def test_a_compiler_takes_what_a_device_says(monkeypatch):
    """It cannot look into what a device is asked."""

    class Devices:
        def missing(self, index: int) -> str:
            return "" if ctypes.CDLL(None).abs(-index) == 1 else "missing"

    monkeypatch.setattr(native, "cuda_devices", Devices())
    compiled = torch.compile(
        lambda x: x * (2 if ops.backend("cuda:1")[0] == "native" else 3), backend="eager", fullgraph=True
    )
    assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 2.0))


@pytest.mark.usefixtures("devices")
def test_info_names_every_device(capsys, cache):
    assert main(["info"]) == 0
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line.startswith("cuda:"))
    assert rows["cuda:0"].startswith("Stand-in 0, sm_90; sm_90 by NVRTC 13.")
    assert rows["cuda:1"].startswith("Stand-in 1, sm_75; sm_75 by NVRTC 13.")
    assert all(str(cache) in row and "; compiling took " in row for row in rows.values())
