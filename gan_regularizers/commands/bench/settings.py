"""The settings of the benchmark and their defaults, apart from what it takes to run it."""

from dataclasses import dataclass

Shape = tuple[int, int, int, int]

PARTS = ("noise", "color", "all")
MODES = ("forward", "forward+backward", "r1")
DTYPES = ("float32", "float16", "bfloat16")
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
MOST_IMAGE_CHANNELS = 4  # what has more is a feature map: noise alone, one t per channel


@dataclass(frozen=True)
class Settings:
    """What a run is made of."""

    device: str
    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...] = ("float32",)
    parts: tuple[str, ...] = PARTS
    modes: tuple[str, ...] = MODES
    seconds: float = 3.0
    threads: int | None = None
    compile: bool = True
    autotune: bool = False


def shape(text: str) -> Shape:
    """Read ``64x3x256x256``."""
    sizes = text.lower().split("x")
    if len(sizes) != 4 or not all(size.isascii() and size.isdigit() and int(size) > 0 for size in sizes):
        raise ValueError(f"{text!r} is no shape; write batch, channels, height and width like 64x3x256x256")
    return tuple(map(int, sizes))


def shape_name(sizes: Shape) -> str:
    """Write ``64x3x256x256``."""
    return "x".join(map(str, sizes))
