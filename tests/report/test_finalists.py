"""The session of all finalists in words."""

from autocompress.measurement import LatencyCheck, Speedup
from autocompress.record import FinalistPair, Finalists
from autocompress.report.finalists import alike_sentences, finalist_rows
from autocompress.report.markdown import write_report_md

CHECK = LatencyCheck(p90_ms=0.55, p99_ms=0.61, noise_floor=0.004, busy_share=0.02)


def ratio(value, half_width):
    return Speedup(value=value, low=value - half_width, high=value + half_width, n_pairs=100)


def with_finalists(record, make, measured, recipe):
    made = [
        make(recipe(bits), measured(speedup=(speed, speed - 0.04, speed + 0.04), latency_check=CHECK), label=label)
        for bits, speed, label in ((8, 4.0, "a|b"), (7, 3.99, ""), (6, 2.0, "slow"))
    ]
    first, second, third = (c.digest for c in made)
    pairs = [
        FinalistPair(faster=first, slower=second, ratio=ratio(1.0025, 0.01)),
        FinalistPair(faster=first, slower=third, ratio=ratio(2.0, 0.01)),
        FinalistPair(faster=second, slower=third, ratio=ratio(1.996, 0.006)),
    ]
    return record(*made, finalists=Finalists(digests=(first, second, third), pairs=tuple(pairs)))


def test_each_finalist_has_its_numbers_and_the_ratio_to_the_next(record, make, measured, recipe):
    rows = finalist_rows(with_finalists(record, make, measured, recipe))
    assert rows[0][1:] == [
        "4.00x [3.96, 4.04]", "1.0 %", "0.500", "0.550", "0.610", "1.00x [0.99, 1.01], can't be told apart",
    ]  # fmt: skip
    assert [row[-1] for row in rows[1:]] == ["2.00x [1.99, 2.00]", ""]


def test_only_neighbours_within_the_error_are_named(record, make, measured, recipe):
    found = with_finalists(record, make, measured, recipe)
    first, second = found.finalists.digests[:2]
    assert alike_sentences(found) == [
        f"the latencies of a|b ({first}) and {second} can't be told apart: ratio 1.00x [0.99, 1.01]"
    ]


def test_the_report_shows_them_escaped(record, make, measured, recipe, tmp_path):
    found = with_finalists(record, make, measured, recipe)
    write_report_md(found, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "## Finalists, timed together" in text and r"The latencies of a\|b" in text


def test_without_finalists_nothing_is_said(full):
    assert finalist_rows(full) == [] and alike_sentences(full) == []
