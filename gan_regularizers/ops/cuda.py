"""Which CUDA devices run the kernels, found out once for each before its first call, and why the others do not."""

import contextlib
import sys
from types import ModuleType
from typing import NamedTuple

import torch

from ..kernels import cubins
from ..kernels.cubins import Cubins
from ..kernels.nvrtc import Nvrtc, NvrtcError, find

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


class Device(NamedTuple):
    """One device: its images, or why it has none."""

    cubins: Cubins | None
    missing: str


class Devices:
    """The devices of this machine, on the kernels of ``_kernels.cuda``."""

    def __init__(self, kernels: ModuleType) -> None:
        self._kernels = kernels
        self._lines: dict[str, str] = kernels.kernels()
        self._driver: int | str | None = None  # the version of CUDA that it is for, or why there is none
        self._devices: dict[int, Device] = {}
        self._cubins: dict[int, Cubins] = {}  # of devices that are being looked at, too
        with contextlib.suppress(OSError):  # which is said when a device is looked at
            cubins.digest(self._lines)  # reads the sources now, as they are when the module is loaded
        kernels.set_images(self._image)

    def __getitem__(self, index: int) -> Device:
        """A device, which is looked at when it is first asked for.

        Raises:
            RuntimeError: a CUDA graph is being captured, or the driver refuses what it may not refuse later.
        """
        device = self._devices.get(index)
        if device is not None:
            return device
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"the kernels have not run on cuda:{index} yet, and a CUDA graph that is being captured cannot load "
                f"them; run the step once before it is captured"
            )
        with cubins.lock:  # another thread waits for what this one finds
            if index not in self._devices:
                self._devices[index] = self._look_at(index)
        return self._devices[index]

    def missing(self, index: int | None) -> str:
        """Why a device, by default the current one, runs no kernels; empty where it does."""
        if index not in self._devices:
            if reason := self.without_devices():
                return reason
            index = torch.cuda.current_device() if index is None else index
        return self[index].missing

    def kernels_on(self, index: int) -> ModuleType:
        """The kernels, for a device that runs them.

        Raises:
            RuntimeError: it does not.
        """
        if reason := self[index].missing:
            raise RuntimeError(reason)
        return self._kernels

    def without_devices(self) -> str:
        """What this machine, its driver and its torch lack before a device is looked at; empty where it is nothing."""
        if torch.version.hip is not None:
            return "this torch is built for AMD's ROCm, and the kernels are for CUDA"
        if not torch.backends.cuda.is_built():
            return "this torch is built without CUDA; install one with it"
        driver = self.driver()
        if isinstance(driver, str):
            return driver
        if not torch.cuda.is_available():
            return "torch finds no CUDA device that it can use; torch.cuda.init() says why, nvidia-smi what there is"
        return ""

    def driver(self) -> int | str:
        """The version of CUDA that the driver is for, such as 13000, or why there is none."""
        if self._driver is None:
            try:
                self._driver = self._kernels.open_driver(_DRIVER)
            except RuntimeError as error:
                self._driver = str(error)
        return self._driver

    @staticmethod
    def nvrtc() -> Nvrtc:
        """The NVRTC of this torch.

        Raises:
            NvrtcError: there is none.
        """
        return find(int(torch.version.cuda.split(".")[0]) if torch.version.cuda else None)

    def _look_at(self, index: int) -> Device:
        major, minor = torch.cuda.get_device_capability(index)
        try:
            images = Cubins(self._lines, 10 * major + minor, self.driver() // 1000, self.nvrtc)
            self._cubins[index] = images
            # The smallest kernel, which every draw needs, shows whether the compiler and the driver do their work.
            self._kernels.load("draw", index)
        except self._kernels.TransientError:
            raise
        except (NvrtcError, OSError, RuntimeError) as error:
            return Device(None, f"the kernels do not run on cuda:{index}: {error.__cause__ or error}")
        return Device(images, "")

    def _image(self, kernel: str, index: int) -> bytes:
        try:
            return self._cubins[index].image(kernel)
        except NvrtcError as error:
            raise RuntimeError(
                f"the kernel {kernel} cannot be made for cuda:{index}: {error}; GAN_REGULARIZERS_BACKEND=reference "
                f"does without it"
            ) from error
