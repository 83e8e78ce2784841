"""The candidates as a pandas table."""

import pandas as pd
import pytest

from autocompress import Study
from autocompress.recipe import Recipe
from autocompress.report import frame, read_frame
from autocompress.report.frame import COLUMN_TYPES, COLUMNS


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
    assert (row.stopped_at, row.learning_rate, row.n_rollbacks) == (60, 0.004, 0)
    assert row.started_from == Recipe().digest()  # the FP32 model's weights


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


def types_of(table: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in table.dtypes.items()}


@pytest.fixture
def odd(record, make, measured, recipe, training):
    """A record whose texts and numbers a CSV file could lose."""
    failed = make(recipe(4), None, failure='None, "NaN"\nand a second line; größer', label="NA")
    numbers = measured(speedup=(0.1 + 0.2, 0.1, 1 / 3), zipped_bytes=None)
    return record(failed, make(recipe(8), numbers, label="null", training=training(9)), make(recipe(2), measured()))


EVERY = ["full", "odd", "only a baseline", "nothing", "no baseline", "all failed"]


@pytest.fixture
def kind(request, full, odd, record, make, recipe):
    """Records of every kind."""
    return {
        "full": full,
        "odd": odd,
        "only a baseline": record(),
        "nothing": record().model_copy(update={"candidates": ()}),
        "no baseline": full.model_copy(update={"candidates": full.candidates[1:]}),
        "all failed": full.model_copy(update={"candidates": (make(recipe(8), None),)}),
    }[request.param]


@pytest.mark.parametrize("kind", EVERY, indirect=True)
def test_columns_and_their_types_are_always_the_same(kind):
    table = frame(kind)
    assert types_of(table) == COLUMN_TYPES and len(table) == len(kind.candidates)


@pytest.mark.parametrize("kind", EVERY, indirect=True)
def test_a_csv_file_gives_the_same_table_back(kind, tmp_path):
    table = frame(kind)
    table.to_csv(tmp_path / "frame.csv", index=False)
    pd.testing.assert_frame_equal(read_frame(tmp_path / "frame.csv"), table, check_exact=True)


def test_without_a_baseline_nothing_is_on_the_front(full):
    assert not frame(full.model_copy(update={"candidates": full.candidates[1:]})).on_front.any()


@pytest.mark.parametrize("documented", [frame, Study.frame], ids=["frame", "Study.frame"])
def test_help_names_every_column_with_type_unit_and_meaning(documented):
    lines = [line.split() for line in documented.__doc__.splitlines()]
    for column in COLUMNS:
        words = [column.name, column.dtype, *column.unit.split(), *column.meaning.split()]
        assert words in lines, column.name


def test_every_column_is_documented_once():
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
