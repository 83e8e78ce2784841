"""Latencies of the table: every structure of the small network against the FP32 baseline, interleaved."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from autocompress.latency import compile_model, random_inputs
from autocompress.latency.models import runner
from autocompress.planning.problem import Floats

N_COPIES, N_ROUNDS, N_REPEATS = 3, 10, 3

Run = Callable[[], Any]


def structures(n_choices: tuple[int, ...], n_quantized: int) -> Iterator[tuple[int, ...]]:
    """Plans that differ in latency: bits matter only as float (index 0) or integer (index 1)."""
    sizes = [2 if unit < n_quantized else n for unit, n in enumerate(n_choices)]
    return itertools.product(*(range(n) for n in sizes))


def structure_of(plan: tuple[int, ...], n_quantized: int) -> tuple[int, ...]:
    """The plan of `structures` that is as fast as `plan`.

    >>> structure_of((0, 3, 2, 1), n_quantized=2)
    (0, 1, 2, 1)
    """
    return tuple(min(index, 1) for index in plan[:n_quantized]) + tuple(plan[n_quantized:])


def runs_of(model: Any) -> list[Run]:
    """Copies of a model, each running one inference on one thread; copies lie elsewhere in memory."""
    return [runner(compile_model(model, 1), random_inputs(model)) for _ in range(N_COPIES)]


def relative_latency(baseline: list[Run], model: list[Run], clock: Callable[[], float] = time.thread_time) -> float:
    """Latency relative to the baseline's: the median over rounds of the ratio of two blocks that follow each other.

    Args:
        baseline: Copies of the baseline; the same number as of the model.
        model: Copies of the model.
        clock: Seconds; by default those in which the calling thread worked, which other processes don't lengthen.
    """
    ratios = []
    for number in range(N_ROUNDS * N_COPIES):
        pair = [_block(copies[number % N_COPIES], clock) for copies in (baseline, model)]
        ratios.append(pair[1] / pair[0])
    return float(np.exp(np.median(np.log(ratios))))


def _block(run: Run, clock: Callable[[], float]) -> float:
    """Seconds of the fastest inference of a block; one before it fills the caches."""
    run()
    seconds: Floats = np.empty(N_REPEATS)
    for place in range(N_REPEATS):
        start = clock()
        run()
        seconds[place] = clock() - start
    return float(seconds.min())
