"""The settings of the benchmark and their defaults, apart from what it takes to run it."""

from dataclasses import dataclass

Shape = tuple[int, int, int, int]

PARTS = ("noise", "diffused", "color", "translation", "cutout", "augment", "all")
DEFAULT_PARTS = ("noise", "augment", "all")
MODES = ("forward", "forward+backward", "r1")
DTYPES = ("float32", "float16", "bfloat16")
LAYOUTS = ("contiguous", "channels_last")
SHAPES: dict[str, tuple[Shape, ...]] = {
    "cpu": ((256, 3, 32, 32), (64, 3, 64, 64), (16, 3, 256, 256)),
    "cuda": (
        (256, 3, 32, 32),
        (64, 3, 64, 64),
        (64, 3, 256, 256),
        (16, 3, 512, 512),
        (8, 3, 1024, 1024),
        (16, 256, 32, 32),
    ),
}
# What ProjectedGAN's D sees of 16 images of 256 pixels: the feature maps of tf_efficientnet_lite0, on which the noise
# lies by default, and what the mixing of channels and scales (cout = 64, expand, proj_type = 2) makes of them.
SHAPE_SETS: dict[str, tuple[Shape, ...]] = {
    "projected_gan": ((16, 24, 64, 64), (16, 40, 32, 32), (16, 112, 16, 16), (16, 320, 8, 8)),
    "projected_gan_mixed": ((16, 64, 128, 128), (16, 64, 64, 64), (16, 128, 32, 32), (16, 256, 16, 16)),
}
MOST_IMAGE_CHANNELS = 4  # what has more is a feature map: noise alone, one t per channel


@dataclass(frozen=True)
class Settings:
    """What a run is made of."""

    device: str
    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...] = ("float32",)
    layouts: tuple[str, ...] = ("contiguous",)
    parts: tuple[str, ...] = DEFAULT_PARTS
    modes: tuple[str, ...] = MODES
    seconds: float = 3.0
    threads: tuple[int, ...] | None = None  # as torch has it
    compile: bool = True
    autotune: bool = False


def shapes(text: str) -> tuple[Shape, ...]:
    """Read ``64x3x256x256``, or the name of a set of shapes."""
    if text in SHAPE_SETS:
        return SHAPE_SETS[text]
    sizes = text.lower().split("x")
    if len(sizes) != 4 or not all(size.isascii() and size.isdigit() and int(size) > 0 for size in sizes):
        raise ValueError(
            f"{text!r} is no shape; write batch, channels, height and width like 64x3x256x256, or one of "
            f"{', '.join(SHAPE_SETS)}"
        )
    return (tuple(map(int, sizes)),)


def shape_name(sizes: Shape) -> str:
    """Write ``64x3x256x256``."""
    return "x".join(map(str, sizes))
