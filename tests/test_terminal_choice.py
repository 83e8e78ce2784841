"""What `choose` and `verify` show, on a terminal and elsewhere."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from autocompress import terminal
from autocompress.measurement import CoursePoint
from autocompress.record import Chosen
from autocompress.search.progress import Progress
from autocompress.search.verification import Claim, Verification
from tests.examples import candidate, measurement, record

GOOD = candidate("1a2b3c", 0.004, 2.5, 500_000, label="int8")
MIDWAY = Progress(
    "fine-tuning int8 (500 steps)",
    training=CoursePoint(step=200, loss=0.4, learning_rate=0.003),
    n_steps=500,
    seconds_left=75.0,
)


def console(is_terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=is_terminal, width=140, color_system=None), file


def test_a_terminal_shows_the_training_with_a_bar_and_a_forecast() -> None:
    target, file = console(is_terminal=True)
    with terminal.ChoiceView(target) as view:
        view.update(MIDWAY)
        drawn = view.render(MIDWAY)
    assert "fine-tuning int8 (500 steps), about 1:15 left" in file.getvalue()
    assert "step 200 of 500 · loss 0.400" in file.getvalue()
    bar = drawn.renderables[-1]
    assert (bar.completed, bar.total) == (200, 500)  # type: ignore[union-attr]


def test_elsewhere_only_messages_are_lines() -> None:
    target, file = console()
    with terminal.ChoiceView(target) as view:
        view.update(MIDWAY)
        view.update(Progress("fine-tuning int8", message="training [int8] takes about 75 s"))
    assert file.getvalue() == "training [int8] takes about 75 s\n"


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_a_choice_says_what_why_and_whether_it_is_confirmed(is_confirmed: bool) -> None:
    target, file = console()
    test = measurement(0.005, 2.4) if is_confirmed else None
    chosen = Chosen(digest="1a2b3c", meets_wishes=True, reason="the fastest of 2", test=test)
    terminal.print_choice(target, record(GOOD, chosen=chosen), Path("mine/chosen"), "the task [x] is gone")
    text = file.getvalue()
    assert text.startswith("int8 (1a2b3c): 2.50x [2.50, 2.50] faster") and "the fastest of 2\n" in text
    assert ("score on test" in text) == is_confirmed
    assert ("mine/chosen, not confirmed on the test split: the task [x] is gone" in text) != is_confirmed


HOLDS = Claim("size", "500 bytes", "500 bytes", "holds")
ELSEWHERE = Claim("speed-up", "2.00x [1.98, 2.02]", "1.50x [1.48, 1.52]", "not here", "slower than claimed")
FAILS = Claim("kernels", "i8 in 2 layers", "f32 in 2 layers", "fails", "runs in floating point here: a[0]")


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        pytest.param((HOLDS,), "every claim holds on this machine", id="all hold"),
        pytest.param((HOLDS, ELSEWHERE), "what must hold anywhere holds", id="one does not hold here"),
        pytest.param((HOLDS, ELSEWHERE, FAILS), "a claim fails on this machine", id="one fails"),
    ],
)
def test_claims_stand_beside_what_was_measured(claims: tuple[Claim, ...], said: str) -> None:
    target, file = console()
    terminal.print_verification(target, Verification(claims, ("processor was 'A', is 'B' here",), "test", 5000))
    lines = file.getvalue().splitlines()
    assert lines[0] == "· processor was 'A', is 'B' here" and lines[1].strip() == "5000 test samples"
    assert lines[-1].startswith(said)
    for claim in claims:
        (row,) = [line for line in lines if f" {claim.what} " in line]
        verdict = "FAILS" if claim.verdict == "fails" else claim.verdict
        assert claim.claimed in row and claim.here in row and f"{verdict}{claim.why and ': '}{claim.why}" in row
