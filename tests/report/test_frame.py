"""The candidates as a pandas table."""

import pandas as pd
import pytest

from autocompress.recipe import Recipe
from autocompress.report import frame


def test_there_is_one_row_a_candidate_in_the_order_of_the_record(full):
    assert list(frame(full).digest) == [c.digest for c in full.candidates]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("label", "int8"),
        ("rung", "short"),
        ("accuracy", 0.88),
        ("torch_accuracy", 0.881),
        ("accuracy_drop", 0.02),
        ("accuracy_drop_low", 0.01),
        ("accuracy_drop_high", 0.04),
        ("speedup", 3.0),
        ("speedup_low", 2.5),
        ("speedup_high", 3.75),
        ("n_pairs", 40),
        ("latency_ms", 0.5),
        ("size_bytes", 200_001),
        ("zipped_bytes", 150_003),
        ("macs", 77),
        ("agreement", 0.97),
        ("on_front", True),
        ("seconds", 10.0),
        ("n_steps", 158),
        ("learning_rate", 0.004),
        ("started_from", "1a2b3c"),
        ("stopped_at", 60),
        ("n_rollbacks", 2),
    ],
)
def test_a_column_holds_its_own_number(record, make, measured, recipe, training, column, value):
    numbers = measured(
        speedup=(3.0, 2.5, 3.75),
        drop=(0.02, 0.01, 0.04),
        accuracy=0.88,
        torch_accuracy=0.881,
        latency_ms=0.5,
        size_bytes=200_001,
        zipped_bytes=150_003,
        macs=77,
        agreement=0.97,
    )
    summary = training(150, learning_rate=0.004, started_from="1a2b3c", stopped_at=60, n_rollbacks=2)
    table = frame(record(make(recipe(8), numbers, label="int8", n_steps=158, training=summary)))
    assert table[column][1] == value


def test_a_failed_candidate_has_its_reason_and_no_numbers(record, make, recipe):
    row = frame(record(make(recipe(8), None))).iloc[1]
    assert row.failure == "fine-tuning diverged: the loss is not finite"
    assert row[["accuracy", "accuracy_drop", "speedup", "n_pairs", "latency_ms", "size_bytes", "macs"]].isna().all()


def test_a_candidate_that_was_given_up_has_its_training(record, make, recipe, training):
    row = frame(record(make(recipe(8), None, training=training(150, stopped_at=60, learning_rate=0.004)))).iloc[1]
    assert (row.stopped_at, row.learning_rate, row.started_from, row.n_rollbacks) == (60, 0.004, "", 0)


def test_a_candidate_that_was_not_trained_has_no_numbers_of_a_training(full):
    table = frame(full)
    assert table[["learning_rate", "started_from", "stopped_at", "n_rollbacks"]].isna().all(axis=None)
    assert table.n_steps.notna().all()


def test_a_zipped_size_that_was_not_measured_is_missing(record, make, measured, recipe):
    assert frame(record(make(recipe(8), measured(speedup=2.0)))).zipped_bytes.isna().all()


def test_a_measured_candidate_has_no_failure(full):
    table = frame(full)
    assert (table.failure.isna() == table.speedup.notna()).all()


def test_a_failed_candidate_is_never_on_the_front(full):
    table = frame(full)
    assert table.failure.notna().sum() == 3
    assert not table.on_front[table.failure.notna()].any()


def test_a_failed_run_of_a_recipe_that_was_measured_too_is_not_on_the_front(record, make, measured, recipe):
    table = frame(record(make(recipe(8), None), make(recipe(8), measured(speedup=3.0))))
    assert list(table.on_front) == [False, False, True]


def test_the_front_is_that_of_the_definition(full):
    table = frame(full).dropna(subset="speedup")
    costs = pd.DataFrame({"drop": table.accuracy_drop, "time": 1 / table.speedup, "size": table.size_bytes})
    for digest, own, on_front in zip(table.digest, costs.itertuples(index=False), table.on_front, strict=True):
        beaten = any(
            all(a <= b for a, b in zip(other, own, strict=True)) and other != own
            for other in costs.itertuples(index=False)
        )
        assert on_front != beaten, digest


def test_the_total_counts_rather_than_the_sum_of_phases(record, make, measured, recipe):
    run = make(recipe(8), measured(), seconds={"finetune": 3.0, "total": 5.0})
    assert frame(record(run)).seconds[1] == 5.0


def test_a_record_with_only_a_baseline_has_one_row_on_the_front(record):
    table = frame(record())
    assert list(table.digest) == [Recipe().digest()]
    assert list(table.on_front) == [True]
