"""Reports of records at the edge: nothing but a baseline, all failed, all alike, no choice, no time."""

import json
import re

import pytest

from autocompress.record import Chosen
from autocompress.report import frame, render, write_report


def _alone(record, make, measured, recipe):
    return record()


def _all_failed(record, make, measured, recipe):
    return record(*(make(recipe(bits), None) for bits in (8, 4, 2)))


def _one(record, make, measured, recipe):
    return record(make(recipe(8), measured(speedup=2.0)))


def _one_chosen(record, make, measured, recipe):
    run = make(recipe(8), measured(speedup=2.0))
    return record(run, chosen=Chosen(digest=run.digest, meets_wishes=True, reason="it is"))


def _baseline_chosen(record, make, measured, recipe):
    study = record(make(recipe(8), measured(speedup=0.5)))
    chosen = Chosen(digest=study.baseline.digest, meets_wishes=True, reason="it is")
    return study.model_copy(update={"chosen": chosen})


def _all_alike(record, make, measured, recipe):
    same = measured(speedup=(1.0, 1.0, 1.0), drop=(0.0, 0.0, 0.0))
    alike = [make(recipe(bits), same) for bits in (8, 4, 2)]
    study = record(*alike, chosen=Chosen(digest=alike[0].digest, meets_wishes=True, reason="it is"))
    first = study.candidates[0].model_copy(update={"measurement": same})
    return study.model_copy(update={"candidates": (first, *study.candidates[1:])})


def _no_floor(record, make, measured, recipe):
    return record(make(recipe(8), measured(speedup=2.0, drop=0.1)), study={"max_drop": 0.0})


def _no_time(record, make, measured, recipe):
    return record(make(recipe(8), measured(speedup=2.0), seconds={}), seconds={})


def _huge(record, make, measured, recipe):
    far = measured(speedup=(1e6, 1.0, 1e9), drop=(5.0, -3.0, 1e4), size_bytes=1, latency_ms=1e-9)
    return record(make(recipe(8), far), make(recipe(4), measured(speedup=1e-6, drop=-2.0, size_bytes=10**15)))


EXTREMES = [_alone, _all_failed, _one, _one_chosen, _baseline_chosen, _all_alike, _no_floor, _no_time, _huge]


@pytest.fixture(name="extreme", params=EXTREMES, ids=[build.__name__.strip("_") for build in EXTREMES])
def _extreme(request, record, make, measured, recipe):
    return request.param(record, make, measured, recipe)


def test_a_report_is_written_the_same_twice(extreme, tmp_path):
    extreme.write(tmp_path / "candidates.json")
    written = []
    for _ in range(2):
        render(tmp_path)
        written.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert written[0] == written[1] and {"report.md", "front.html", "front.svg"} <= set(written[0])
    assert not re.search(rb"\b(nan|inf)\b", written[0]["report.md"].lower())
    assert len(frame(extreme)) == len(extreme.candidates)


def test_a_record_without_what_older_versions_did_not_know_has_a_report(trained, tmp_path):
    def older(value):
        new = {"explanation", "finalists", "training", "latency_check", "zipped_bytes", "selection_drop", "findings"}
        if isinstance(value, dict):
            return {key: older(item) for key, item in value.items() if key not in new}
        return [older(item) for item in value] if isinstance(value, list) else value

    (tmp_path / "candidates.json").write_text(json.dumps(older(trained.model_dump(mode="json"))))
    render(tmp_path)
    assert "4.20x [4.15, 4.26] faster" in (tmp_path / "report.md").read_text()


def test_the_document_is_written_last(full, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    for file in ("report.md", "front.html"):
        (tmp_path / file).write_text("the one before")
    monkeypatch.setattr("autocompress.report.write_front_html", fail)
    with pytest.raises(OSError, match="no space left"):
        write_report(full, tmp_path)
    assert (tmp_path / "report.md").read_text() == "the one before"
