"""The CUDA launcher on a stand-in of the driver: what it loads and launches, and every way in which that may fail."""

import ctypes.util
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import ModuleType

import pytest
import torch
from kernel_calls import on_cuda
from stand_in import own_kernels, text_image
from test_operator import PARTS, make_case

from gan_regularizers.ops import TransformParams

pytest.importorskip("gan_regularizers.kernels._kernels", reason="the kernels are not built", exc_type=ImportError)

SMALL = TransformParams(gain=torch.tensor([0.5, 2.0]))
X = torch.arange(24.0).view(2, 3, 2, 2)


@pytest.fixture
def kernels(driver, tmp_path) -> ModuleType:
    """A launcher that has opened it."""
    module = own_kernels(tmp_path)
    assert module.open_driver(str(driver.path)) == 13000
    module.set_images(text_image)
    return module


def expected(x: torch.Tensor = X) -> torch.Tensor:
    return x * SMALL.gain.view(-1, 1, 1, 1)


def test_a_machine_without_a_driver(tmp_path):
    with pytest.raises(RuntimeError, match=r"^no NVIDIA driver was found \(libnone\.so: .*\); install it, or let"):
        own_kernels(tmp_path).open_driver("libnone.so")


def test_a_driver_without_the_functions(tmp_path):
    with pytest.raises(RuntimeError, match=r"^the NVIDIA driver is too old \(it has no cuInit\); install a newer one$"):
        own_kernels(tmp_path).open_driver(ctypes.util.find_library("c"))


def test_a_driver_that_does_not_start(driver, tmp_path):
    driver.set("cuInit", 100)
    kernels = own_kernels(tmp_path)
    with pytest.raises(RuntimeError, match=r"starting the driver, .* failed: CUDA_ERROR_100"):
        kernels.open_driver(str(driver.path))
    with pytest.raises(RuntimeError, match="the NVIDIA driver is not open"):
        kernels.load("draw", 0)


def test_an_image_is_asked_for_once_for_each_kernel_and_device(kernels, driver):
    asked = []

    def images(kernel: str, device: int) -> bytes:
        asked.append((kernel, device))
        return text_image(kernel, device)

    kernels.set_images(images)
    for _ in range(3):
        for device in (0, 1):
            torch.testing.assert_close(on_cuda(kernels, X, SMALL, device=device), expected(), rtol=0, atol=0)
    assert asked == [("flat_float32", 0), ("flat_float32", 1)]
    assert driver.count("cuModuleLoadData") == driver.count("cuDevicePrimaryCtxRetain") == 2
    assert driver.count("launches on 0") == driver.count("launches on 1") == 3
    assert driver.contexts() == 0
    kernels.load("flat_float32", 0)
    kernels.load("draw", 1)
    assert asked[2:] == [("draw", 1)]


@pytest.mark.parametrize(
    ("shape", "launches", "memsets"),
    [((256, 3, 32, 32), 1, 0), ((2, 3, 160, 160), 1, 1)],  # a block for each sample; slices, whose counters begin at 0
)
@pytest.mark.parametrize("adjoint", [False, True])
def test_a_pass_is_one_launch(kernels, driver, shape, launches, memsets, adjoint):
    case = make_case(shape, PARTS, dtype=torch.float32)
    before = driver.count("cuLaunchKernel"), driver.count("cuMemsetD32Async")
    on_cuda(kernels, case.x, case.params, adjoint)
    assert driver.count("cuLaunchKernel") - before[0] == launches
    assert driver.count("cuMemsetD32Async") - before[1] == memsets


def test_bits_do_not_depend_on_the_size_of_the_device(driver, tmp_path_factory):
    case = make_case((3, 3, 96, 100), PARTS, dtype=torch.float32)
    results = []
    for multiprocessors in (1, 16, 132):
        kernels = own_kernels(tmp_path_factory.mktemp("kernels"))
        driver.set("multiprocessors", multiprocessors)
        kernels.open_driver(str(driver.path))
        kernels.set_images(text_image)
        results += [on_cuda(kernels, case.x, case.params) for _ in range(2)]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize(
    ("function", "said"),
    [("cuModuleLoadData", "loading the kernel flat_float32 failed"), ("cuLaunchKernel", "a launch failed")],
)
def test_an_error_of_the_driver_is_said_and_not_kept(kernels, driver, function, said):
    driver.set(function, 719)
    with pytest.raises(RuntimeError, match=rf"^CUDA: {said}: CUDA_ERROR_719 \(as the test wants it\)$"):
        on_cuda(kernels, X, SMALL)
    assert driver.contexts() == 0
    driver.set(function, 0)
    torch.testing.assert_close(on_cuda(kernels, X, SMALL), expected())


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"no image\0", "loading the kernel flat_float32 failed"),
        (b"gan_regularizers_draw\0", "finding the kernel flat"),
    ],
)
def test_an_image_without_the_kernel(kernels, image, said):
    kernels.set_images(lambda _kernel, _device: image)
    with pytest.raises(RuntimeError, match=said):
        on_cuda(kernels, X, SMALL)
    kernels.set_images(text_image)
    torch.testing.assert_close(on_cuda(kernels, X, SMALL), expected())


def test_an_error_of_the_images_is_raised_as_it_is(kernels):
    def images(_kernel: str, _device: int) -> bytes:
        raise LookupError("nothing here")

    kernels.set_images(images)
    with pytest.raises(LookupError, match="nothing here"):
        on_cuda(kernels, X, SMALL)


def test_a_captured_graph_launches_what_is_loaded_and_loads_nothing(kernels, driver):
    driver.set("capturing", 1)
    with pytest.raises(RuntimeError, match=r"flat_float32 has not run on this device yet.*run the step once before"):
        on_cuda(kernels, X, SMALL)
    driver.set("capturing", 0)
    on_cuda(kernels, X, SMALL)
    driver.set("capturing", 1)
    torch.testing.assert_close(on_cuda(kernels, X, SMALL), expected())
    assert driver.count("cuModuleLoadData") == 1


def test_all_goes_to_the_stream_that_is_given(kernels, driver):
    case = make_case((2, 3, 160, 160), PARTS, dtype=torch.float32)
    on_cuda(kernels, case.x, case.params, stream=0x1230)
    for function in ("cuStreamIsCapturing", "cuMemsetD32Async", "cuLaunchKernel"):
        assert driver.count(f"stream of {function}") == 0x1230


def test_a_kernel_is_loaded_while_another_thread_captures(kernels, driver):
    driver.set("captured elsewhere", 1)
    torch.testing.assert_close(on_cuda(kernels, X, SMALL), expected())
    assert driver.capture_mode() == 0


@pytest.mark.parametrize("error", [2, 900, 906])
def test_what_may_pass_is_said_so(kernels, driver, error):
    driver.set("cuModuleLoadData", error)
    with pytest.raises(kernels.TransientError, match=f"CUDA_ERROR_{error}"):
        kernels.load("draw", 0)
    assert issubclass(kernels.TransientError, RuntimeError)
    assert driver.capture_mode() == 0


def test_two_threads_that_load_one_kernel_at_once(kernels, driver):
    together, results = threading.Barrier(2), []

    def images(kernel: str, device: int) -> bytes:
        together.wait(timeout=60)  # both have found that nothing is loaded
        return text_image(kernel, device)

    kernels.set_images(images)
    threads = [threading.Thread(target=lambda: results.append(on_cuda(kernels, X, SMALL))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(result, expected()) for result in results)
    assert len(results) == driver.count("cuModuleLoadData") == 2
    assert driver.count("cuModuleUnload") == 1
    on_cuda(kernels, X, SMALL)
    assert driver.count("cuModuleLoadData") == 2


def test_a_forked_process_is_told_what_the_driver_says(driver, tmp_path):
    """As torch, which has no CUDA in a process that was forked after the first call."""
    script = tmp_path / "fork.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import pathlib, torch
        from stand_in import own_kernels, text_image
        from kernel_calls import on_cuda
        from test_cuda_launcher import SMALL, X
        kernels = own_kernels(pathlib.Path({str(tmp_path)!r}))
        kernels.open_driver({str(driver.path)!r})
        kernels.set_images(text_image)
        on_cuda(kernels, X, SMALL)
        child = os.fork()
        if not child:
            try:
                on_cuda(kernels, X, SMALL)
            except RuntimeError as error:
                os._exit(3 if 'CUDA_ERROR_3 ' in str(error) else 1)
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """)
    )
    done = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr


def test_what_cannot_be_asked_for(kernels):
    with pytest.raises(ValueError, match="no kernel is called none"):
        kernels.load("none", 0)
    for device in (-1, 64):
        with pytest.raises(ValueError, match=f"device {device}"):
            kernels.load("draw", device)
    with pytest.raises(RuntimeError, match="finding the device failed: CUDA_ERROR_101"):
        kernels.load("draw", 2)
