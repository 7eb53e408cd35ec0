"""Metadata lives in pyproject.toml. This file adds the kernels and the sources, and never imports torch."""

import importlib
import shutil
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Distribution, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

# The package without its __init__, which imports torch.
package = sys.modules["gan_regularizers"] = ModuleType("gan_regularizers")
package.__path__ = [str(ROOT / "gan_regularizers")]
building, cubins, nvrtc = (
    importlib.import_module(f"gan_regularizers.kernels.{name}") for name in ("building", "cubins", "nvrtc")
)


class PlatformDistribution(Distribution):
    """One whose wheel is for a platform, though no extension is listed."""

    def has_ext_modules(self) -> bool:
        """Return True: CMake knows the extensions, setuptools does not."""
        return True


class BuildPackage(build_py):
    """Lays csrc and patches into the package, as they are."""

    def run(self) -> None:
        """Start from an empty folder: what an earlier build left there would go into the wheel."""
        if self.editable_mode:
            return
        package = Path(self.build_lib, "gan_regularizers")
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        for name in ("csrc", "patches"):
            if (ROOT / name).exists():
                shutil.copytree(ROOT / name, package / name)


class BuildKernels(build_ext):
    """Builds the kernels that this machine can build, into the wheel or, for an editable install, into the tree."""

    def run(self) -> None:
        """Never fail for the module: the record says why it is missing. But CUDA images come only if asked for."""
        in_place = self.inplace or self.editable_mode
        package = Path(ROOT if in_place else self.build_lib, "gan_regularizers").resolve()
        try:
            architectures = building.cuda_architectures()
            built = building.build(package, Path(self.build_temp, "kernels"), verbose=True)
            if built.missing:
                print(f"No kernels: {built.missing}")
            if architectures:
                cubins.make_shipped(package, architectures, nvrtc.find())
        except ValueError as error:
            raise SystemExit(str(error)) from None
        except (ImportError, nvrtc.NvrtcError) as error:
            raise SystemExit(f"{building.ARCHITECTURES}: {error}") from None


setup(distclass=PlatformDistribution, cmdclass={"build_py": BuildPackage, "build_ext": BuildKernels})
