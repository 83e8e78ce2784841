"""Two models side by side: what the comparison says and how far it can be trusted."""

from rich.console import Console

from autocompress.latency import FINALIST, LatencySettings, PairedLatency, relative_half_width, verdict
from autocompress.measurement import LatencyCheck, Speedup
from autocompress.report.wording import percent, threads_words

_NARROW = 0.02


def print_comparison(
    console: Console,
    result: PairedLatency,
    sizes: tuple[int, int],
    zipped_sizes: tuple[int, int],
    settings: LatencySettings = FINALIST,
) -> None:
    """Two models side by side, with a verdict that respects the interval.

    Args:
        console: Where to print.
        result: Their paired latencies.
        sizes: Bytes of the files of the model and of the baseline.
        zipped_sizes: Bytes of both in a zip archive.
        settings: How they were measured.
    """
    s, check = result.speedup, result.check
    lines = [
        f"{verdict_words(s)} ({s.n_pairs} pairs, 95 % interval, {threads_words(settings.n_threads)})",
        f"latency {result.latency_ms:.3f} ms against {result.baseline_ms:.3f} ms, medians of one inference; "
        f"nine of ten took at most {check.p90_ms:.3f} ms, 99 of 100 at most {check.p99_ms:.3f} ms",
        _noise_words(check),
        *([_warning(s, settings)] if check.is_noisy else []),
        *(
            f"{word} {own} bytes against {other} bytes"
            for word, (own, other) in (("size", sizes), ("zipped size", zipped_sizes))
        ),
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_throughput(console: Console, speedup: Speedup, model_rate: float, baseline_rate: float) -> None:
    """What the two models do when many inferences are under way at once.

    Args:
        console: Where to print.
        speedup: Rate of the model / rate of the baseline, with its interval.
        model_rate: Inferences a second of the model.
        baseline_rate: The same of the baseline.
    """
    words = verdict_words(speedup).replace("faster", "more").replace("slower", "less")
    line = f"throughput {model_rate:,.1f} a second against {baseline_rate:,.1f} a second: {words}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def verdict_words(s: Speedup) -> str:
    """How much faster or slower, or that the interval holds 1.

    >>> verdict_words(Speedup(value=0.5, low=0.4, high=0.8, n_pairs=50))
    '2.00x [1.25, 2.50] slower'
    """
    decided = verdict(s)
    if decided == "same":
        return f"no difference beyond noise: {_times(s)}"
    if decided == "slower":
        s = Speedup(value=1 / s.value, low=1 / s.high, high=1 / s.low, n_pairs=s.n_pairs)
    return f"{_times(s)} {decided}"


def _times(s: Speedup) -> str:
    """Value and ends, with a third decimal where two would hide how narrow the interval is.

    >>> _times(Speedup(value=1, low=0.997, high=1.003, n_pairs=9))
    '1.000x [0.997, 1.003]'
    """
    digits = 3 if s.high - s.low < _NARROW else 2
    return f"{s.value:.{digits}f}x [{s.low:.{digits}f}, {s.high:.{digits}f}]"


def _noise_words(check: LatencyCheck) -> str:
    again = f"; {check.n_discarded} rounds were measured again" if check.n_discarded else ""
    return (
        f"noise: the baseline differs from itself by at most {percent(check.noise_floor)}; "
        f"others had the processor for {percent(check.busy_share)} of the time{again}"
    )


def _warning(speedup: Speedup, settings: LatencySettings) -> str:
    width = relative_half_width(speedup)
    wide = f"the interval is ±{percent(width)}, wider than the ±{percent(settings.half_width)} that was asked for"
    why = wide if width > settings.half_width else "other work kept this machine busy"
    return f"warning: {why}; run it again when nothing else runs, or with a larger --max-seconds"
