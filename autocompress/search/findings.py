"""Plain sentences that a user should read, drawn from what was measured."""

from collections.abc import Iterable

from autocompress.graph import ModelGraph
from autocompress.measurement import Environment, Measurement
from autocompress.pareto import Candidate
from autocompress.recipe import FLOAT_BITS

_SATURATED = 0.99  # less agreement than this between torch and deployed model is worth a sentence
_MANY = 4


def about_model(graph: ModelGraph) -> list[str]:
    """Layers and channel groups that are left alone, with the reason."""
    found = [f"layer {layer.name} stays float: {layer.reason}" for layer in graph.layers if layer.reason]
    locked = [f"channel group {g.name} is not pruned: {g.reason}" for g in graph.groups if g.reason]
    return _shortened(found) + _shortened(locked)


def about_candidates(candidates: Iterable[Candidate], environment: Environment) -> list[str]:
    """Saturation, layers that ran in float, integer models that are not faster, failures."""
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


def _shortened(sentences: list[str]) -> list[str]:
    rest = len(sentences) - _MANY
    return sentences[:_MANY] + ([f"and {rest} more of this kind; autocompress inspect lists them"] if rest > 0 else [])
