"""Times of several functions, taken in turns."""

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

LEAST_ROUNDS = 5
MOST_ROUNDS = 2000
SLOW_EVERY = 10  # rounds
WARM_UP_CALLS = 3

FLUSH_BYTES = 2**28  # twice the L2 cache of a B200; torch 2.4 does not tell a device's own
MOST_FLUSHES = 128  # far fewer than the launches that a driver queues before it makes the host wait
MOST_TAKES = 3

Call = Callable[[], Any]
Fail = Callable[[str, Exception], None]


@dataclass
class Times:
    """Seconds of every call of a function; on CUDA those of the device, and what the host spent beside them.

    In ``host_bound`` calls the device may have waited for the host, so their seconds are not the device's alone.
    """

    seconds: list[float] = field(default_factory=list)
    host_seconds: list[float] = field(default_factory=list)
    host_bound: int = 0

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


def take_turns(calls: dict[str, Call], device: str, seconds: float, fail: Fail) -> dict[str, Times]:
    """Time warm functions in turns, so that what disturbs the machine disturbs them alike.

    Rounds go on until all of them together have taken ``seconds`` per function. One that takes longer than all others
    together has a turn in every tenth only, so that there are rounds enough for the others. One that raises is left out
    from then on, and ``fail`` told of it.
    """
    time_once = _time_on_cpu
    if device == "cuda":
        time_once = _CudaClock(torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device).zero_)
    times = {name: Times() for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    end = time.monotonic() + seconds * len(calls)
    for done in _counted_until(end):
        # Every other round goes backwards: no function has always the same one before it.
        for name in list(times)[:: -1 if done % 2 else 1]:
            slow = done >= LEAST_ROUNDS and 2 * spent[name] > sum(spent.values())
            if slow and done % SLOW_EVERY:
                continue
            begin = time.monotonic()
            try:
                time_once(calls[name], times[name])
            except Exception as error:
                fail(name, error)
                del times[name], spent[name]
            else:
                spent[name] += time.monotonic() - begin
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
    """Time a function by events, with a cold L2 cache, on a device that is busy until the host has issued all of it.

    A device that waits for the next launch would make the events time the host, which in training runs ahead. What
    keeps it busy is the flush of the cache, as often as it takes.
    """

    def __init__(self, flush: Call) -> None:
        self.flush = flush
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        warm_up(flush)
        repeats = 10
        self.begin.record()
        for _ in range(repeats):
            flush()
        self.end.record()
        self.flush_seconds = self._elapsed() / repeats

    def __call__(self, call: Call, times: Times) -> None:
        for _ in range(MOST_TAKES):
            seconds, host_bound = self._take(call, times.host_seconds)
            if not host_bound:
                break
        times.seconds.append(seconds)
        times.host_bound += host_bound

    def _take(self, call: Call, host_seconds: list[float]) -> tuple[float, bool]:
        """Returns the seconds between the events and whether the device may have waited for the host in between."""
        for _ in range(self._flushes(host_seconds)):
            self.flush()
        self.begin.record()
        host_begin = time.perf_counter()
        call()
        host_seconds.append(time.perf_counter() - host_begin)
        self.end.record()
        host_bound = self.begin.query()  # the flushes were over before the host was through
        return self._elapsed(), host_bound

    def _flushes(self, host_seconds: list[float]) -> int:
        """How many outlast the host, by its latest calls; the first call of a function finds out how long it takes."""
        longest = max(host_seconds[-10:], default=0.0)
        return min(1 + math.ceil(1.5 * longest / self.flush_seconds), MOST_FLUSHES)

    def _elapsed(self) -> float:
        self.end.synchronize()
        return self.begin.elapsed_time(self.end) / 1e3
