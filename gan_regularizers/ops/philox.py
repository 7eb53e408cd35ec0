"""Counter-based normals: Philox 4x32-10 (Salmon et al., SC 2011) and the Box-Muller transform.

A normal depends on the seed of its sample and on its logical index in that sample, and on nothing else: not on
the batch it stands in, the memory layout, the device or the number of threads.
"""

import math

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox_4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox on four counter words under a key of two words.

    Words are int64 tensors that hold values in [0, 2^32); they broadcast against each other. A 64-bit product
    overflows int64, but its bits are right, and only bits are read from it.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        even, odd = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (odd >> 32 & _WORD) ^ c1 ^ k0, odd & _WORD, (even >> 32 & _WORD) ^ c3 ^ k1, even & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def _box_muller(radius_word: Tensor, angle_word: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # The half step keeps the logarithm away from zero.
    uniform = radius_word.to(dtype) * 2.0**-32 + 2.0**-33
    angle = angle_word.to(dtype) * (math.tau * 2.0**-32)
    radius = torch.sqrt(-2.0 * torch.log(uniform))
    return radius * torch.cos(angle), radius * torch.sin(angle)


def philox_normal(seed: Tensor, numel: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normals [len(seed), numel], a row per seed.

    Element i of a row is normal i % 4 of block i // 4.

    Args:
        seed: int64 [N]; all 64 bits count.
        numel: normals per seed.
        dtype: float32 or float64, the arithmetic after the integers; both read the same 32-bit words.
    """
    blocks = torch.arange((numel + 3) // 4, device=seed.device)
    return normal_blocks(seed, blocks, dtype).flatten(1)[:, :numel]


def normal_blocks(seed: Tensor, block: Tensor, dtype: torch.dtype) -> Tensor:
    """The normals of some blocks [N, len(block), 4].

    A block is the words at counter (block, 0) under key = seed, paired as (0, 1) and (2, 3) for Box-Muller.
    """
    zero = torch.zeros((), dtype=torch.int64, device=seed.device)
    key = (seed[:, None] & _WORD, seed[:, None] >> 32 & _WORD)
    words = philox_4x32((block & _WORD, block >> 32, zero, zero), key)
    normals = (*_box_muller(words[0], words[1], dtype), *_box_muller(words[2], words[3], dtype))
    return torch.stack(normals, dim=-1)
