"""Makes the scripts of any checkout run in seconds on a CPU: put this folder on PYTHONPATH, and set TINY.

TINY=68 shows D that many images in one run of train.py, with tiny networks; several ranks meet over gloo. TINY=0 is for
scripts that train nothing: their CUDA devices are the CPU, and a metric is the mean of an image.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType


class _AfterImport:
    """Hands a module to a function of the same folder once it was imported, whichever finder finds it."""

    def __init__(self, hooks: dict[str, tuple[str, str]]) -> None:
        self.hooks = hooks

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if sys.meta_path[0] is not self:  # a launcher of the package came before
            sys.meta_path.remove(self)
            sys.meta_path.insert(0, self)
        if name not in self.hooks:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path[1:])
        spec = next(filter(None, specs), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_hook(module: ModuleType) -> None:
                execute(module)
                file, function = self.hooks[name]
                getattr(importlib.import_module(file), function)(module)

            spec.loader.exec_module = execute_and_hook
        return spec


if "TINY" in os.environ:
    adapters = "stylegan insgen projected_gan diffusion_gan wrapped".split()
    training = {f"gan_regularizers.adapters.{name}": ("tiny_training", "shrink_configured") for name in adapters}
    training |= {
        "training.training_loop": ("tiny_training", "shrink_loop"),
        "timm": ("tiny_training", "download_nothing"),
    }
    scripts = {"legacy": ("tiny_scripts", "use_cpu"), "metrics.metric_main": ("tiny_scripts", "mean_for_metric")}
    sys.meta_path.insert(0, _AfterImport(training if int(os.environ["TINY"]) else scripts))

folder = Path(__file__).resolve().parent
if spec := PathFinder.find_spec(__name__, [path for path in sys.path if Path(path).resolve() != folder]):
    spec.loader.exec_module(module_from_spec(spec))
