"""Plain sentences that a user should read, drawn from what was measured."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from autocompress.measurement import Environment, Measurement
from autocompress.pareto import Candidate
from autocompress.recipe import FLOAT_BITS, Recipe

if TYPE_CHECKING:  # choosing needs no torch
    from autocompress.graph import ModelGraph

_SATURATED = 0.99  # less agreement than this between torch and deployed model is worth a sentence
_MANY = 4
_SAME_SPEED = 1.05  # two sessions of one model differ by a few percent (facts: openvino-cpu.md)


def about_model(graph: "ModelGraph") -> list[str]:
    """Layers and channel groups that are left alone, with the reason."""
    found = [f"layer {layer.name} stays float: {layer.reason}" for layer in graph.layers if layer.reason]
    locked = [f"channel group {g.name} is not pruned: {g.reason}" for g in graph.groups if g.reason]
    return _shortened(found) + _shortened(locked)


def about_candidates(candidates: Iterable[Candidate], environment: Environment) -> list[str]:
    """Saturation, layers that ran in float, integer models that are not faster, what zeros bought, failures."""
    measured = [(c, c.measurement) for c in candidates if c.measurement]
    found = _about_saturation(measured, environment)
    in_float = sorted({name for _, m in measured for name in m.float_layers})
    if in_float:
        found.append(f"asked for integers, ran in floating point: {', '.join(in_float[:_MANY])}")
    for c, m in measured:
        if c.label == "int8" and m.speedup.high < 1:
            found.append(f"INT8 alone is slower than FP32 on this CPU: {m.speedup.value:.2f}x")
    if any(2 <= bits.weight_bits < 7 for c, _ in measured for bits in c.recipe.layers.values()):
        found.append("weights below 7 bits make the files smaller; they run in the same integer kernels as 8 bits")
    found += _about_sparsity(measured)
    found += _about_noise([m for _, m in measured])
    failed = [c for c in candidates if c.failure]
    if failed:
        found.append(f"{len(failed)} candidates failed; the last because {failed[-1].failure}")
    return found


def _about_saturation(measured: list[tuple[Candidate, Measurement]], environment: Environment) -> list[str]:
    if not environment.int8_saturates:
        return []
    found = ["8-bit weights saturate on this CPU, so a deployed model can differ from torch; 7-bit weights are exact"]
    for c, m in measured:
        widths = {bits.weight_bits for bits in c.recipe.layers.values()} - {FLOAT_BITS}
        if 8 in widths and m.agreement < _SATURATED:
            found.append(f"{c.name} agrees with torch on {m.agreement:.1%} of the samples: saturation")
    return found[: _MANY + 1]


def _about_noise(measured: list[Measurement]) -> list[str]:
    """Latencies that were taken on a busy machine."""
    noisy = [m.latency_check for m in measured if m.latency_check and m.latency_check.is_noisy]
    if not noisy:
        return []
    busiest, floor = max(c.busy_share for c in noisy), max(c.noise_floor for c in noisy)
    return [
        f"{len(noisy)} of {len(measured)} latencies are noisier than asked for: other processes had up to "
        f"{busiest:.0%} of the processor, and the baseline differed from itself by up to {floor:.1%}; search on a "
        "quiet machine, or with longer --latency-seconds"
    ]


def _about_sparsity(measured: list[tuple[Candidate, Measurement]]) -> list[str]:
    """What the zeros of the sparsest candidate bought, beside the same recipe without zeros if that was measured.

    Whole rows are left out, since they are removed and do make a model faster.
    """
    sparse = [(c, m) for c, m in measured if c.recipe.sparse and c.recipe.sparsification.structure == "weights"]
    if not sparse:
        return []
    dense = {c.recipe.digest(): m for c, m in measured}
    pairs = [(c, m, dense.get(_without_zeros(c.recipe).digest())) for c, m in sparse]
    c, m, twin = max(pairs, key=lambda pair: (pair[2] is not None, max(pair[0].recipe.sparse.values())))
    return [f"sparse weights make the zipped files smaller{_speed_of_zeros(m, twin)}: {_numbers_of_zeros(c, m, twin)}"]


def _speed_of_zeros(m: Measurement, twin: Measurement | None) -> str:
    """What is known about the speed of zeros; nothing is claimed against a measurement."""
    if twin is None:
        return "; zeros are multiplied like all other weights"
    is_faster = m.speedup.value > _SAME_SPEED * twin.speedup.value
    return "" if is_faster else ", not the model faster on this CPU"


def _without_zeros(recipe: Recipe) -> Recipe:
    layers = {name: layer.model_copy(update={"sparsity": 0.0}) for name, layer in recipe.layers.items()}
    return Recipe.model_validate(recipe.model_dump() | {"layers": layers})


def _numbers_of_zeros(c: Candidate, m: Measurement, twin: Measurement | None) -> str:
    name = f"{c.name} with up to {max(c.recipe.sparse.values()):.0%} zeros"
    if twin is None:
        zipped = "" if m.zipped_bytes is None else f", zipped {_kilobytes(m.zipped_bytes)}"
        return f"the files of {name} take {_kilobytes(m.size_bytes)}{zipped}"
    files = f"its files went from {_kilobytes(twin.size_bytes)} to {_kilobytes(m.size_bytes)}"
    if m.zipped_bytes and twin.zipped_bytes:
        files += f", zipped from {_kilobytes(twin.zipped_bytes)} to {_kilobytes(m.zipped_bytes)}"
    speeds = f"from {twin.speedup.value:.2f}x to {m.speedup.value:.2f}x"
    return f"against the same recipe without zeros the speed-up of {name} went {speeds}, {files}"


def _kilobytes(n_bytes: int) -> str:
    return f"{n_bytes / 1000:,.1f} kB"


def about_default_precision(precision: str, speedup: float, low: float, high: float) -> str:
    """What OpenVINO would do to the FP32 model if the precision were not fixed."""
    return (
        f"without a fixed precision OpenVINO would run the FP32 model in {precision} on this CPU, "
        f"{speedup:.2f}x [{low:.2f}, {high:.2f}] as fast as f32; here f32 is the baseline and float layers run in f32"
    )


def about_test(test: Measurement, max_drop: float) -> list[str]:
    """A drop on the test split that is larger than the search believed."""
    drop = test.accuracy_drop
    if drop.value <= max_drop:
        return []
    return [
        f"on the test split the drop is {drop.value:.4f} [{drop.low:.4f}, {drop.high:.4f}], above the floor of "
        f"{max_drop:g} that validation had confirmed; a larger validation split would make the bound tighter"
    ]


def about_floor(candidates: Iterable[Candidate], chosen: Candidate, max_drop: float) -> list[str]:
    """The fastest candidate that was left out only because the validation split is too small to be sure of it."""
    if chosen.measurement is None:
        return []
    least = _SAME_SPEED * chosen.measurement.speedup.value
    unsure = [
        (m.speedup.value, c, m, m.selection_drop)
        for c in candidates
        if (m := c.measurement)
        and m.speedup.value > least
        and m.selection_drop
        and m.selection_drop.value < max_drop < m.selection_drop.high
    ]
    if not unsure:
        return []
    speedup, c, m, drop = max(unsure, key=lambda found: found[0])
    n_needed = m.n_samples * ((drop.high - drop.value) / (max_drop - drop.value)) ** 2
    return [
        f"{c.name} is faster, {speedup:.2f}x, and its drop of {drop.value:.4f} would keep the floor, but with "
        f"{m.n_samples} validation samples the bound is {drop.high:.4f}; about {_two_digits(n_needed):,} samples would "
        "be needed to be sure of it"
    ]


def _two_digits(n: float) -> int:
    """Rounded up to two significant digits.

    >>> _two_digits(8123.4)
    8200
    """
    step = 10 ** max(0, len(str(int(n))) - 2)
    return int(math.ceil(n / step) * step)


def _shortened(sentences: list[str]) -> list[str]:
    rest = len(sentences) - _MANY
    return sentences[:_MANY] + ([f"and {rest} more of this kind; autocompress inspect lists them"] if rest > 0 else [])
