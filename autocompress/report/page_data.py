"""Everything that `front.html` draws, as plain data; what the browser only shows is worded here."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from autocompress.pareto import CHANCES
from autocompress.record import StudyRecord
from autocompress.report.explanation import (
    UNIT_HEAD,
    UNIT_NOTE,
    drop_limits,
    is_for_the_chosen,
    latency_limits,
    shown_forecasts,
    unit_rows,
)
from autocompress.report.health import hypervolume_history
from autocompress.report.page_candidates import candidate_data
from autocompress.report.plot_points import PlotPoint, lowest_drop_shown, plot_points
from autocompress.report.wording import printable

_ONE_SIDED = 0.05


def page_data(record: StudyRecord) -> dict[str, Any]:
    """What the page's script reads, ready for JSON; plain text throughout.

    Raises:
        StudyError: The baseline was not measured.
    """
    study, explanation, shown = record.study, record.explanation, plot_points(record)
    return candidate_data(record, shown) | {
        "study": {
            "task": printable(study.task),
            "score": printable(study.score),
            "higherIsBetter": study.higher_is_better,
            "maxDrop": study.max_drop,
        },
        "rule": _rule(record),
        "edge": _fraction(lowest_drop_shown(shown, study.max_drop)),
        "units": {
            "explained": explanation.digest if explanation and is_for_the_chosen(record) else "",
            "head": UNIT_HEAD,
            "note": UNIT_NOTE,
            "rows": unit_rows(explanation) if explanation and is_for_the_chosen(record) else [],
            "sensitivity": _sensitivity(record),
        },
        "history": [[p.n_candidates, round(p.seconds, 3), round(p.share, 6)] for p in hypervolume_history(record)],
        "forecasts": _forecasts(record, shown),
    }


def _rule(record: StudyRecord) -> dict[str, Any]:
    """Quantiles of `pareto.Wishes`: by which factor half an interval grows to give the bound of each chance."""
    n = max(1, sum(not c.recipe.is_identity for c in record.candidates if c.measurement))
    quantile = NormalDist().inv_cdf
    return {
        "half": quantile(1 - _ONE_SIDED),
        "chances": [quantile(1 - chance) for chance in CHANCES],
        "compared": quantile(1 - _ONE_SIDED / n),
    }


def _fraction(points: float | None) -> float | None:
    return None if points is None else points / 100


def _sensitivity(record: StudyRecord) -> list[dict[str, Any]]:
    known = record.explanation.sensitivity if record.explanation else ()
    return [
        {
            "unit": printable(unit.unit),
            "choices": [printable(effect.choice) for effect in unit.choices],
            "table": [effect.table_drop for effect in unit.choices],
            "learned": [effect.learned_drop for effect in unit.choices],
            "ms": [effect.latency_ms for effect in unit.choices],
            "bytes": [effect.size_bytes for effect in unit.choices],
        }
        for unit in known
    ]


def _forecasts(record: StudyRecord, shown: Sequence[PlotPoint]) -> dict[str, Any] | None:
    """Measured and predicted drop in points and latency in percent of the baseline's; None without any."""
    forecasts = shown_forecasts(record)
    if not forecasts:
        return None
    return {
        "digests": [f.digest for f in forecasts],
        "drop": [[f.drop, f.table_drop, f.learned_drop] for f in forecasts],
        "latency": [[f.latency, f.predicted_latency] for f in forecasts],
        "dropLimits": drop_limits(record, shown),
        "latencyLimits": latency_limits(record),
    }
