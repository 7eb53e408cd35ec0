"""Which CUDA devices run the kernels, found out once for each before its first call, and why the others do not."""

import sys
from dataclasses import dataclass
from types import ModuleType

import torch

from ..cubins import Cubins
from ..nvrtc import Nvrtc, NvrtcError, find

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@dataclass(frozen=True)
class Device:
    """One device: its images, or why it has none."""

    cubins: Cubins | None = None
    missing: str = ""


class Devices:
    """The devices of this machine, on the kernels of ``_kernels.cuda``."""

    def __init__(self, kernels: ModuleType) -> None:
        self._kernels = kernels
        self._lines: dict[str, str] = kernels.kernels()
        self._driver: int | str | None = None  # the version of CUDA that it is for, or why there is none
        self._devices: dict[int, Device] = {}
        kernels.set_images(self._image)

    def __getitem__(self, index: int) -> Device:
        """A device, which is looked at when it is first asked for.

        Raises:
            RuntimeError: that would be while a CUDA graph is captured.
        """
        device = self._devices.get(index)
        if device is None:
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    f"the kernels have not run on cuda:{index} yet, and a CUDA graph that is being captured cannot "
                    f"load them; run the step once before it is captured"
                )
            device = self._devices[index] = self._look_at(index)
        return device

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
            return "torch finds no CUDA device that it can use"
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
            cubins = Cubins(self._lines, 10 * major + minor, self.driver() // 1000, self.nvrtc)
            device = self._devices[index] = Device(cubins)
            # The smallest kernel, which every draw needs, shows whether the compiler and the driver do their work.
            self._kernels.load("draw", index)
        except (NvrtcError, RuntimeError) as error:
            return Device(missing=f"the kernels do not run on cuda:{index}: {error.__cause__ or error}")
        return device

    def _image(self, kernel: str, index: int) -> bytes:
        try:
            return self[index].cubins.image(kernel)
        except NvrtcError as error:
            raise RuntimeError(
                f"the kernel {kernel} cannot be made for cuda:{index}: {error}; GAN_REGULARIZERS_BACKEND=reference "
                f"does without it"
            ) from error
