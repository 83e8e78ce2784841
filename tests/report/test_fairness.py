"""What does not compare: each difference is told once, and nothing where there is none."""

import pytest

from autocompress.measurement import LatencyCheck
from autocompress.record import Chosen
from autocompress.report.compared import NamedStudy
from autocompress.report.fairness import is_rankable, unfair_sentences


def named(*records):
    return [NamedStudy("ABCDEFG"[i], f"run{i}", record) for i, record in enumerate(records)]


@pytest.fixture(name="chosen_record")
def _chosen_record(record, make, measured, recipe):
    """A record whose choice was confirmed on the test split; settings and environment can be changed."""

    def build(environment=None, baseline=None, check=None, is_tested=True, **changes):
        run = make(recipe(8), measured(speedup=2.0))
        test = measured(speedup=2.0, latency_check=check) if is_tested else None
        built = record(run, chosen=Chosen(digest=run.digest, meets_wishes=True, reason="it", test=test), **changes)
        candidates = built.candidates
        if baseline:
            first = candidates[0].model_copy(update={"measurement": measured(**baseline)})
            candidates = (first, *candidates[1:])
        where = built.environment.model_copy(update=environment or {})
        return built.model_copy(update={"environment": where, "candidates": candidates})

    return build


def test_studies_that_differ_in_nothing_have_no_sentence(chosen_record):
    studies = named(chosen_record(), chosen_record(), chosen_record(study={"seed": 1}))
    assert unfair_sentences(studies) == [] and is_rankable(studies)


DIFFERENCES = [  # id, changes of the second study, beginning of the sentence, whether speed-ups may still be ranked
    (
        "task",
        {"study": {"task": "cifar"}},
        "The task differs (A and C: fashion; B: cifar): these are other models",
        False,
    ),
    (
        "score",
        {"study": {"higher_is_better": False}},
        "The score differs (A and C: accuracy, higher is better; B: accuracy, lower is better)",
        False,
    ),
    (
        "floor",
        {"study": {"max_drop": 0.02}},
        "The accuracy floor differs (A and C: 1.00 points; B: 2.00 points)",
        False,
    ),
    (
        "CPU",
        {"environment": {"cpu": "Other"}},
        "The CPU differs (A and C: Intel(R) Xeon(R) Processor @ 2.60GHz; B: O",
        False,
    ),
    (
        "threads",
        {"environment": {"inference_threads": 4}},
        "The number of inference threads differs (A and C: one thr",
        False,
    ),
    (
        "OpenVINO",
        {"environment": {"versions": {"openvino": "2027.0"}}},
        "The version of OpenVINO differs (A and C: 2026.1.0; B: 2027.0)",
        True,
    ),
    (
        "objectives",
        {"study": {"objectives": ("accuracy_drop", "latency")}},
        "The list of objectives differs (A and C: accuracy_drop, latency and size_bytes; B: accuracy_drop and latency)",
        True,
    ),
    ("space", {"study": {"space": "int8"}}, "The search space differs (A and C: default; B: int8)", True),
    (
        "time",
        {"seconds": {"total": 900.0}},
        "The searches did not take the same time (A 7.5 min, B 15.0 min, C 7.5 min)",
        True,
    ),
    ("sampler", {"study": {"sampler": "nsga2"}}, "Of the samplers, nsga2 has one run only: what looks like", True),
    (
        "MACs",
        {"baseline": {"macs": 99}},
        "The FP32 baseline of B is not that of A, though the task has the same",
        False,
    ),
    ("size", {"baseline": {"size_bytes": 810_000}}, "The FP32 baseline of B is not that of A", False),
    ("samples", {"baseline": {"n_samples": 999}}, "The FP32 baseline of B is not that of A", False),
    ("accuracy", {"baseline": {"accuracy": 0.91}}, "The FP32 baseline of B is not that of A", False),
    ("confirmation", {"is_tested": False}, "The choice of B was not confirmed on the test split", True),
    (
        "noise",
        {"check": LatencyCheck(p90_ms=1.0, p99_ms=1.0, noise_floor=0.1, busy_share=0.5, is_noisy=True)},
        "The latency of the choice of B was measured on a busy machine",
        True,
    ),
]


@pytest.mark.parametrize(("changes", "said", "can_rank"), [pytest.param(*row[1:], id=row[0]) for row in DIFFERENCES])
def test_a_difference_is_told(chosen_record, changes, said, can_rank):
    studies = named(chosen_record(), chosen_record(**changes), chosen_record())
    (sentence,) = unfair_sentences(studies)
    assert sentence.startswith(said) and sentence.endswith(".")
    assert is_rankable(studies) == can_rank


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"seconds": {"total": 490.0}}, id="nearly the same time"),
        pytest.param({"baseline": {"size_bytes": 800_500}}, id="a few bytes"),
        pytest.param({"baseline": {"accuracy": 0.9004}}, id="a few samples of another CPU"),
        pytest.param({"check": LatencyCheck(p90_ms=1.0, p99_ms=1.0, noise_floor=0.0, busy_share=0.0)}, id="quiet"),
    ],
)
def test_what_makes_no_difference_is_not_told(chosen_record, changes):
    assert unfair_sentences(named(chosen_record(), chosen_record(**changes))) == []


def test_samplers_with_several_runs_each_are_compared_in_silence(chosen_record):
    samplers = ["tpe", "nsga2", "tpe", "nsga2"]
    assert unfair_sentences(named(*(chosen_record(study={"sampler": s}) for s in samplers))) == []


def test_baselines_of_other_tasks_are_not_compared(chosen_record):
    studies = named(chosen_record(), chosen_record(study={"task": "other"}, baseline={"macs": 99}))
    assert [sentence[:9] for sentence in unfair_sentences(studies)] == ["The task "]


def test_every_sentence_is_one_line_of_plain_text(chosen_record):
    evil = {"task": "a\n<b>", "score": "c\x00d", "space": "e\tf", "sampler": "g\u2028h"}
    sentences = unfair_sentences(named(chosen_record(), chosen_record(study=evil, environment={"cpu": "i\nj"})))
    assert len(sentences) == 5 and all(s.isprintable() for s in sentences) and "a <b>" in sentences[0]
