"""Times of several functions, taken in turns."""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

LEAST_ROUNDS = 5
MOST_ROUNDS = 2000
WARM_UP_CALLS = 3

Call = Callable[[], Any]


@dataclass
class Times:
    """Seconds of every call of a function; on CUDA also what the host spent in it."""

    seconds: list[float] = field(default_factory=list)
    host_seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    @property
    def host_median(self) -> float | None:
        return statistics.median(self.host_seconds) if self.host_seconds else None


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed, for this process from now on; returns whether it could.

    By default glibc hands the end of its heap back to the system when enough of it is free, for milliseconds: whoever
    happens to free the last piece would pay for what others had allocated.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_max = -1, -4  # names of glibc's malloc.h
    return mallopt is not None and bool(mallopt(trim_threshold, 2**31 - 1)) and bool(mallopt(mmap_max, 0))


def warm_up(call: Call) -> None:
    """Let a function compile, load and allocate."""
    for _ in range(WARM_UP_CALLS):
        call()


def take_turns(calls: dict[str, Call], device: str, seconds: float) -> dict[str, Times]:
    """Time warm functions in turns, so that what disturbs the machine disturbs them alike.

    Rounds go on until all of them together have taken ``seconds`` per function.
    """
    time_once = _CudaClock(device) if device == "cuda" else _time_on_cpu
    times = {name: Times() for name in calls}
    end = time.monotonic() + seconds * len(calls)
    for done in _counted_until(end):
        # Every other round goes backwards: no function has always the same one before it.
        for name in list(calls)[:: -1 if done % 2 else 1]:
            time_once(calls[name], times[name])
    return times


def _counted_until(end: float) -> Iterable[int]:
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.monotonic() >= end:
            return
        yield done


def _time_on_cpu(call: Call, times: Times) -> None:
    begin = time.perf_counter()
    call()
    times.seconds.append(time.perf_counter() - begin)


class _CudaClock:
    """Time a function by events, with a cold L2 cache."""

    def __init__(self, device: str) -> None:
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush = torch.empty(2 * cache, dtype=torch.int8, device=device)
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, call: Call, times: Times) -> None:
        self.flush.zero_()
        self.begin.record()
        host_begin = time.perf_counter()
        call()
        times.host_seconds.append(time.perf_counter() - host_begin)
        self.end.record()
        self.end.synchronize()
        times.seconds.append(self.begin.elapsed_time(self.end) / 1e3)
