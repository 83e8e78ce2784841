"""The targets of the search benchmark: what is wanted, what was measured, whether that is enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.planning.problem import Floats
from examples.benchmarks.search.replay import Run
from examples.benchmarks.search.statistics import compare

OURS = "bayesdp"
BLACK_BOXES = ("tpe", "gp", "nsga2", "random")
WINS = 9  # of 10 seeds

Runs = Mapping[str, Sequence[Run]]


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        wanted: In words.
        measured: In words.
        met: Whether it is enough.
    """

    wanted: str
    measured: str
    met: bool


def table_targets(runs: Runs) -> list[Target]:
    """On the exhaustive table."""
    found = [_at_least("table", runs, 10, 0.90), _at_least("table", runs, 30, 0.95)]
    rivals = {name: shares_at(runs[name], 60) for name in BLACK_BOXES if name in runs}
    ours = shares_at(runs[OURS], 10)
    for name, theirs in rivals.items():
        measured = f"{np.median(ours):.3f} against {np.median(theirs):.3f} (medians)"
        met = bool(np.median(ours) >= np.median(theirs))
        found.append(Target(f"table: {OURS} with 10 trials at least {name} with 60", measured, met))
    return found


def synthetic_targets(own_start: Runs, same_start: Runs) -> list[Target]:
    """On the synthetic networks, each sampler from its own start and all from the same ten plans."""
    oracle = "what as many plans of one who knows the truth reach"
    found = [_at_least("40 units", own_start, n, least, oracle) for n, least in ((30, 0.96), (100, 0.985))]
    for runs, start in ((own_start, ""), (same_start, ", all from the same ten plans")):
        ours = shares_at(runs[OURS], 100)
        rivals = {name: shares_at(some, 100) for name, some in runs.items() if name != OURS}
        best = np.max(list(rivals.values()), axis=0)
        wins = int((ours > best).sum())
        wanted = f"40 units: {OURS} best of all with 100 trials in at least {WINS} of 10 seeds{start}"
        found.append(Target(wanted, f"{wins} of {len(ours)}", wins >= WINS * len(ours) / 10))
    return found


def permuted_targets(runs: Runs) -> list[Target]:
    """With a damage table that says nothing."""
    ours, random = (shares_at(runs[name], 100) for name in (OURS, "random"))
    (comparison,) = compare(ours, {"random": random})
    measured = (
        f"{np.median(ours):.3f} against {np.median(random):.3f} (medians), {comparison.wins:g} of {len(ours)} seeds"
    )
    return [Target(f"useless table: {OURS} with 100 trials never below random", measured, bool((ours >= random).all()))]


def shares_at(runs: Sequence[Run], n_trials: int) -> Floats:
    """Share of each run after so many trials, or at its end if it had fewer; shape (runs,)."""
    return np.array([run.shares[min(n_trials, len(run.shares)) - 1] for run in runs])


def _at_least(where: str, runs: Runs, n_trials: int, least: float, of: str = "the best front") -> Target:
    shares = shares_at(runs[OURS], n_trials)
    measured = f"{np.median(shares):.3f} in the median, {shares.min():.3f} in the worst seed"
    met = bool(np.median(shares) >= least)
    return Target(f"{where}: {OURS} with {n_trials} trials at least {least:g} of {of}", measured, met)
