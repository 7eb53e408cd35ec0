"""Compile the CUDA kernels for all architectures with every NVRTC that is here and print what each one needs.

python .ci/cuda_resources.py FOLDER    # for the images

Fails where a kernel does not compile, spills registers or keeps anything in a stack frame. On embedded devices whose
multiprocessors have half the registers, for as many threads, some do spill.
"""

import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gan_regularizers.kernels import _kernels, cubins
from gan_regularizers.kernels.nvrtc import Nvrtc, find

MAJORS = (12, 13)
FEW_REGISTERS = ("sm_53", "sm_62")
_REGISTERS, _FRAME_SIZE = 0x2F, 0x11  # attributes in .nv.info, each of (symbol, value)
_SIZED = 4  # the format of an attribute whose value has a size


def main(folder: str) -> int:
    """Returns 1 where something is amiss."""
    kernels = _kernels.cuda.kernels()
    amiss = []
    for nvrtc in map(find, MAJORS):
        begun = time.perf_counter()
        with ThreadPoolExecutor() as pool:
            made = [pool.submit(cubins.make, Path(folder), kernels, (one,), nvrtc) for one in nvrtc.architectures]
        print(f"NVRTC {nvrtc}: {sum(one.result() for one in made)} images in {time.perf_counter() - begun:.0f} s")
        amiss += _report(Path(folder), kernels, nvrtc)
    for line in amiss:
        print(line)
    return 1 if amiss else 0


def _report(folder: Path, kernels: dict[str, str], nvrtc: Nvrtc) -> list[str]:
    """Print registers and bytes of shared memory; returns what is amiss."""
    amiss = []
    names = [f"sm_{one}" for one in nvrtc.architectures]
    print(f"{'registers/bytes of shared memory':<32}", *(f"{name:>7}" for name in names))
    for kernel in kernels:
        row = []
        for name in names:
            path = folder / cubins.digest(kernels) / f"nvrtc-{nvrtc}" / name / f"{kernel}.cubin"
            registers, frame, shared = resources(path.read_bytes())
            row.append(f"{registers}/{shared}")
            if frame and name not in FEW_REGISTERS:
                amiss.append(f"{kernel} on {name}: a stack frame of {frame} bytes")
        print(f"{kernel:<32}", *(f"{cell:>7}" for cell in row))
    return amiss


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers of a thread, bytes of its stack frame and bytes of a block's shared memory, of the only kernel."""
    (headers,) = struct.unpack_from("<Q", cubin, 40)
    size, number, names_at = struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", cubin, headers + i * size) for i in range(number)]
    names_begin = sections[names_at][4]

    def name(section: tuple) -> str:
        at = names_begin + section[0]
        return cubin[at : cubin.index(b"\0", at)].decode()

    shared = sum(section[5] for section in sections if name(section).startswith(".nv.shared.gan_regularizers"))
    (info,) = (section for section in sections if name(section) == ".nv.info")
    found, at, end = {}, info[4], info[4] + info[5]
    while at < end:
        form, attribute, length = struct.unpack_from("<BBH", cubin, at)
        if form == _SIZED:
            found.setdefault(attribute, []).append(struct.unpack_from("<II", cubin, at + 4)[1] if length >= 8 else 0)
            at += length
        at += 4
    return max(found[_REGISTERS]), max(found[_FRAME_SIZE]), shared


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
