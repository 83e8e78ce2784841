"""Candidates of a study as plain data for `front.html`: their numbers, what they do to each layer, their training."""

from collections.abc import Mapping, Sequence
from typing import Any

from autocompress.explanation import Decisions
from autocompress.measurement import Interval, Measurement, Speedup
from autocompress.pareto import Candidate
from autocompress.recipe import LayerRecipe
from autocompress.record import StudyRecord
from autocompress.report.plot_points import PlotPoint
from autocompress.report.trainings import training_line
from autocompress.report.wording import (
    kilobytes,
    points_interval,
    printable,
    recipe_brief,
    recipe_lines,
    times,
    treatment,
    zipped,
)


class Coder:
    """Numbers distinct values in the order of their first appearance, so that a page names each of them once.

    Attributes:
        values: The values by number.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        """The number of a hashable value."""
        if value not in self._numbers:
            self._numbers[value] = len(self.values)
            self.values.append(value)
        return self._numbers[value]


def candidate_data(record: StudyRecord, shown: Sequence[PlotPoint]) -> dict[str, Any]:
    """All measured candidates, and the tables that they refer to by index.

    Args:
        record: The study.
        shown: Its `plot_points`.

    Returns:
        `layers` in the order of the model, `treatments` and `kernels` that some layer has, and `candidates` in the
        order of the record; plain text throughout.
    """
    layers = net_layers(record)
    group_of = {layer["name"]: layer["group"] for layer in layers}
    treatments, kernels = Coder(), Coder()
    decisions = {d.digest: d for d in record.explanation.decisions} if record.explanation else {}
    candidates = [
        _numbers(point)
        | _texts(record, point)
        | _layer_codes(point, group_of, treatments, kernels)
        | _training(point.candidate)
        | {"decisions": _decisions(decisions.get(point.candidate.digest)), "test": _test(record, point)}
        for point in shown
    ]
    return {
        "layers": [layer | {"name": printable(layer["name"])} for layer in layers],
        "treatments": [_treatment(layer) for layer in treatments.values],
        "kernels": [printable(kernel) for kernel in kernels.values],
        "candidates": candidates,
    }


def net_layers(record: StudyRecord) -> list[dict[str, Any]]:
    """Name, class, filters and channel group of every layer, in the order of the model.

    Records of older versions know no order: their layers are those of the recipes by name, with whole numbers in it by
    value, and a layer is taken for the leader of the channel group of its name.
    """
    known = record.explanation.layers if record.explanation else ()
    if known:
        return [{"name": n.name, "kind": n.kind, "n": n.n_filters, "group": n.group} for n in known]
    names = {name for c in record.candidates for name in (*c.recipe.layers, *c.recipe.pruning)}
    groups = {name for c in record.candidates for name in c.recipe.pruning}
    ordered = sorted(names, key=_by_number)
    return [{"name": name, "kind": "", "n": 0, "group": name if name in groups else ""} for name in ordered]


def _by_number(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `layer10` behind `layer9`."""
    parts = "".join(character if character.isdecimal() else f"\0{character}\0" for character in name).split("\0")
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)


def _numbers(point: PlotPoint) -> dict[str, Any]:
    m, c = point.measurement, point.candidate
    return {
        "digest": c.digest,
        "label": printable(c.label),
        "name": printable(c.name),
        "shown": point.name,
        "kind": point.kind,
        "rung": printable(c.rung),
        "front": point.on_front,
        "chosen": point.is_chosen,
        "identity": c.recipe.is_identity,
        "speedup": _ends(m.speedup),
        "latency": _latency_ends(m),
        "drop": _ends(m.whole_drop),
        "seen": _ends(m.accuracy_drop),
        "held": _ends(m.selection_drop) if m.selection_drop else None,
        "score": m.accuracy,
        "size": m.size_bytes,
        "zipped": m.zipped_bytes,
        "macs": m.macs,
        "noisy": bool(m.latency_check and m.latency_check.is_noisy),
    }


def _ends(interval: Interval | Speedup) -> list[float]:
    return [interval.value, interval.low, interval.high]


def _latency_ends(m: Measurement) -> list[float]:
    """Milliseconds with the relative interval of the speed-up, since that is what was measured in pairs."""
    s = m.speedup
    return [m.latency_ms, m.latency_ms * s.value / s.high, m.latency_ms * s.value / s.low]


def _texts(record: StudyRecord, point: PlotPoint) -> dict[str, Any]:
    m, c = point.measurement, point.candidate
    trained = [f"trained {training_line(record, c.training)}"] if c.training else []
    check = m.latency_check
    return {
        "cells": {
            "speedup": times(m.speedup),
            "latency": f"{m.latency_ms:.3f}",
            "drop": points_interval(m.whole_drop),
            "held": points_interval(m.selection_drop) if m.selection_drop else "",
            "score": f"{m.accuracy:.4f}",
            "size": kilobytes(m.size_bytes),
            "zipped": zipped(m.zipped_bytes),
            "macs": f"{m.macs:,}",
            "torch": f"{m.torch_accuracy:.4f}",
            "agreement": f"{100 * m.agreement:.1f} %",
            "pairs": str(m.speedup.n_pairs),
            "tail": f"{check.p90_ms:.3f} / {check.p99_ms:.3f}" if check else "",
        },
        "brief": recipe_brief(c.recipe),
        "lines": [*recipe_lines(c.recipe, record.study.n_layers), *(printable(line) for line in trained)],
    }


def _layer_codes(point: PlotPoint, group_of: Mapping[str, str], treatments: Coder, kernels: Coder) -> dict[str, Any]:
    """Per layer the index of its treatment and of the kernel that ran; removed shares of filters by index of layer."""
    recipe, m = point.candidate.recipe, point.measurement
    in_float = set(m.float_layers)
    ran = {name: f"{m.ran_in.get(name, 'float')}, asked for integers" for name in in_float}
    return {
        "layers": [treatments.number(recipe.layer(name)) for name in group_of],
        "ran": [kernels.number(ran.get(name) or m.ran_in.get(name, "")) for name in group_of],
        "removed": {
            str(i): recipe.pruning[group] for i, group in enumerate(group_of.values()) if group in recipe.pruning
        },
    }


def _treatment(layer: LayerRecipe) -> dict[str, Any]:
    return {
        "weights": layer.weight_bits,
        "inputs": layer.activation_bits,
        "zeros": layer.sparsity,
        "rank": layer.rank_ratio,
        "text": treatment(layer),
    }


def _training(candidate: Candidate) -> dict[str, Any]:
    """The course as steps, losses and rates, 0 where the user's own loop chose them, and whether it was given up."""
    own = candidate.training
    if own is None or not own.course:
        return {"course": None}
    course = own.course
    return {
        "course": {
            "steps": [p.step for p in course],
            "losses": [float(f"{p.loss:.5g}") for p in course],
            "rates": [float(f"{p.learning_rate:.2g}") for p in course],
            "stopped": own.stopped_at is not None,
        }
    }


def _test(record: StudyRecord, point: PlotPoint) -> dict[str, str] | None:
    """What the chosen model does on the test split, with the speed-up of the last timing."""
    test = record.chosen.test if record.chosen and point.is_chosen else None
    return {"speedup": times(test.speedup), "drop": points_interval(test.accuracy_drop)} if test else None


def _decisions(decisions: Decisions | None) -> list[Sequence[float]] | None:
    """Choices, drops in units of the score, milliseconds and bytes, each one a unit."""
    if decisions is None:
        return None
    return [decisions.choices, decisions.accuracy_drops, decisions.latencies_ms, decisions.sizes_bytes]
