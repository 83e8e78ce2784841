"""How the learning rate goes over the steps of a training, as a share of its peak."""

import math
from bisect import bisect_right

from autocompress.train.settings import FinetuneSettings

RISE = 0.3  # share of the steps in which a cycle rises, torch's `pct_start`
START = 1 / 25  # of the peak, 1 / torch's `div_factor`
END = START / 1e4  # of the peak, START / torch's `final_div_factor`


def rate_factor(step: int, settings: FinetuneSettings) -> float:
    """Share of the peak rate at `step`, in [0, 1]; from `n_steps` on it is 0.

    `cosine` rises linearly, then falls as a cosine to 0 (Loshchilov & Hutter 2017, equation 5, without restarts);
    `one_cycle` is what torch's OneCycleLR does with its default shares (Smith & Topin 2018), but that a training of one
    step takes it at the peak. At each of `rewind_at` the schedule starts over, warm-up included, and is as long as the
    steps up to the next one (learning-rate rewinding: Renda et al. 2020, section 2); a share that falls on the first
    step or behind the last one changes nothing.

    Args:
        step: Counted from 0.
        settings: Of it `n_steps`, `schedule`, `warm_up` and `rewind_at` count.

    >>> [round(rate_factor(s, FinetuneSettings(n_steps=10, warm_up=0.2)), 2) for s in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    >>> rewound = FinetuneSettings(n_steps=4, warm_up=0, rewind_at=(0.5,))
    >>> [round(rate_factor(s, rewound), 2) for s in (0, 1, 2, 3, 4)]
    [1.0, 1.0, 1.0, 1.0, 0.0]
    """
    if step >= settings.n_steps:
        return 0.0
    start, end = _cycle(step, settings)
    if settings.schedule == "one_cycle":
        return _one_cycle(step - start, end - start)
    return _cosine(step - start, end - start, settings.warm_up)


def _cycle(step: int, settings: FinetuneSettings) -> tuple[int, int]:
    """First step of the cycle that `step` is in, and of the next one."""
    bounds = [0, *(round(share * settings.n_steps) for share in settings.rewind_at), settings.n_steps]
    following = bisect_right(bounds, step)
    return bounds[following - 1], bounds[following]


def _cosine(step: int, n_steps: int, warm_up: float) -> float:
    n_warm = max(1, int(warm_up * n_steps))
    if step < n_warm:
        return (step + 1) / n_warm
    return _fall(1.0, 0.0, (step - n_warm) / max(1, n_steps - n_warm))


def _one_cycle(step: int, n_steps: int) -> float:
    if n_steps == 1:
        return 1.0
    top = RISE * n_steps - 1
    if step <= top:
        return _fall(START, 1.0, step / top)
    return _fall(1.0, END, (step - top) / (n_steps - 1 - top))


def _fall(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine, of which `share` is done."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
