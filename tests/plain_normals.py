"""The normals in plain Python and in plain float64, and blocks of them that an implementation may get wrong."""

import math

import numpy as np
import torch
from torch import Tensor

from gan_regularizers.ops import philox

# Seed and block. A word of 0 makes the longest radius, and infinity without the half step; 2^32 - 1 the shortest.
# Counters beyond 20, 31 and 32 bits and keys beyond 32 are where a narrower integer would begin anew.
BLOCKS = [
    (62408197, 2),  # word 2 is 0
    (155288883, 6),  # word 0 is 0
    (632961658, 3),  # word 0 is 2^32 - 1
    *((seed, block) for seed in (5, -1, 5 + 2**32, -(2**63)) for block in (0, 2**18, 2**20 + 1, 2**31 + 7, 2**32)),
]


def philox_4x32(counter: list[int], key: list[int]) -> list[int]:
    """The ten rounds of the paper's listing, on Python's unbounded integers."""
    left_0, right_0, left_1, right_1 = counter
    key_0, key_1 = key
    for _ in range(10):
        high_0, low_0 = divmod(0xD2511F53 * left_0, 1 << 32)
        high_1, low_1 = divmod(0xCD9E8D57 * left_1, 1 << 32)
        left_0, right_0, left_1, right_1 = high_1 ^ right_0 ^ key_0, low_1, high_0 ^ right_1 ^ key_1, low_0
        key_0, key_1 = (key_0 + 0x9E3779B9) % (1 << 32), (key_1 + 0xBB67AE85) % (1 << 32)
    return [left_0, right_0, left_1, right_1]


def normal_block(seed: int, block: int, real: type = np.float32) -> list[float]:
    """The normals of elements 4 block .. 4 block + 3, exact but for the uniform number, which is a float32 or a float.

    Near 1 a float32 has few places, which the shortest radii show.
    """
    words = philox_4x32([block % 2**32, block >> 32, 0, 0], [seed % 2**32, seed >> 32 & 0xFFFFFFFF])
    normals = []
    for radius_word, angle_word in (words[:2], words[2:]):
        uniform = real(radius_word) * real(2**-32) + real(2**-33)
        radius = math.sqrt(-2 * math.log(uniform))
        angle = 2 * math.pi * angle_word / 2**32
        normals += [radius * math.cos(angle), radius * math.sin(angle)]
    return normals


def exact_normals(seed: Tensor, numel: int, real: torch.dtype) -> Tensor:
    """The same for many seeds: float64 [len(seed), numel], of uniform numbers in float32 or float64."""
    block, zero = torch.arange((numel + 3) // 4), torch.zeros((), dtype=torch.int64)
    words = philox.philox_4x32(
        (block, zero, zero, zero), (seed[:, None] & 0xFFFFFFFF, seed[:, None] >> 32 & 0xFFFFFFFF)
    )
    normals = []
    for radius_word, angle_word in (words[:2], words[2:]):
        radius = (-2 * (radius_word.to(real) * 2**-32 + 2**-33).double().log()).sqrt()
        angle = angle_word.double() * (math.tau / 2**32)
        normals += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(normals, -1).flatten(1)[:, :numel]
