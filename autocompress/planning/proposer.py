"""Which plan to try next: anchors, then seeds along the exact front, then what the corrected table promises most."""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from autocompress.planning.correction import Correction, Observation, check_plans, fitting
from autocompress.planning.latency_correction import correct_latency
from autocompress.planning.pool import all_plans, mutants, planned, random_plans, untaken
from autocompress.planning.problem import Floats, Plans, Problem
from autocompress.planning.ranking import Ranking, reach_of

Screen = Callable[[Plans], Floats]

N_SEEDS = 2  # proposals after the anchors that come from the mean table's exact front
SEED_WEIGHTS = 160  # pairs of weights for the front of the mean table
N_TABLES, DRAW_WEIGHTS, MEAN_WEIGHTS = 6, 10, 48  # tables drawn a proposal; pairs of weights for a draw, for the mean
N_MUTANTS = 128  # of the front, and as many of the most promising plans
ENUMERATED = 512  # with at most so many plans, all of them are ranked
FASTEST = 0.0  # share of proposals that seek the fastest plan that keeps the accuracy; see `Proposer`
WANDERING, LOST = 0.04, 0.8  # share of proposals that rank only a few mutants; where predictions are poor, rank none
SHORT_LIST = 4  # plans that a screen measures
ANYWHERE = 0.5  # share of those without ranking that may be any plan
JUDGED, POOR = 10, 0.5  # observations before the prediction is judged; the rank correlation below which it is poor


class Proposer:
    """Proposes plans for trials.

    Everything is recomputed from the observations, so an interrupted search goes on as if it had not stopped.

    Args:
        problem: What is planned.
        anchors: Plans to try first, in this order.
        learn: False keeps the damage table as it is and draws random coefficients instead of learning them.
        seed: Of all chance.
        fastest: Share of proposals, in [0, 1], that seek the fastest plan that keeps the accuracy; the others seek what
            adds most to the front.

    Raises:
        StudyError: An anchor does not fit the problem.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        anchors: Sequence[tuple[int, ...]] = (),
        learn: bool = True,
        seed: int = 0,
        fastest: float = FASTEST,
    ) -> None:
        check_plans(problem, anchors)
        self._problem, self._anchors, self._learn, self._seed = problem, tuple(anchors), learn, seed
        self._fastest = fastest

    def propose(
        self,
        observations: Sequence[Observation],
        taken: Collection[tuple[int, ...]],
        number: int,
        screen: Screen | None = None,
    ) -> tuple[int, ...] | None:
        """The next plan; the same arguments give the same plan.

        Args:
            observations: Trials with a result; failed ones are left out.
            taken: Plans that are not to be proposed again: observed, failed or running.
            number: Number of the trial, >= 0.
            screen: Measures a few plans without training them: takes plans of shape (n, units), returns their damage
                together, shape (n,), in the unit of the isolated damages; inf where it failed. Replaces their sum in
                the ranking.

        Returns:
            One choice for each unit, or None where every plan is taken.

        Raises:
            StudyError: An observed plan does not fit the problem.
        """
        fits = fitting(self._problem, taken)
        done = {tuple(p) for p, fit in zip(taken, fits, strict=True) if fit} | {o.plan for o in observations}
        if len(done) >= self._problem.n_plans:
            return None
        anchor = next((plan for plan in self._anchors if plan not in done), None)
        if anchor is not None:
            return anchor
        rng = np.random.default_rng([self._seed, number])
        seeks_fastest = bool(rng.random() < self._fastest)
        proposal = _Proposal(self._problem, observations, done, self._learn, rng)
        return proposal.choose(self._is_seeding(done), seeks_fastest, screen)

    def _is_seeding(self, done: Collection[tuple[int, ...]]) -> bool:
        return len(done) < len(self._anchors) + N_SEEDS


class _Proposal:
    """One proposal: its table, its front, its pool of plans."""

    def __init__(
        self,
        problem: Problem,
        observations: Sequence[Observation],
        done: Collection[tuple[int, ...]],
        learn: bool,
        rng: np.random.Generator,
    ) -> None:
        self._done, self._rng, self._reach = done, rng, reach_of(problem)
        latencies = None
        if learn:
            problem, latencies = correct_latency(problem, observations)
        self._problem = problem
        self._correction = Correction(problem, observations, learn)
        pending = sorted(set(done) - {o.plan for o in observations})
        n_units = len(problem.units)
        self._ranking = Ranking(
            problem, self._correction, observations, np.array(pending, np.int64).reshape(-1, n_units), rng, latencies
        )
        self._is_poor = (
            learn
            and len(observations) >= JUDGED
            and rank_correlation(self._correction.left_out(), np.array([o.drop for o in observations])) < POOR
        )

    def choose(self, seeding: bool, seeks_fastest: bool, screen: Screen | None) -> tuple[int, ...]:
        """The plan to try; there is one that is not taken."""
        wanders = self._rng.random() < (LOST if self._is_poor else WANDERING)
        if self._problem.n_plans <= ENUMERATED:
            pool = all_plans(self._problem, self._done, ENUMERATED)
        elif seeding:
            pool, wanders = self._seeds(), False
        elif wanders:
            pool = self._wandering()
        else:
            pool = self._pool()
        pool = pool if len(pool) else all_plans(self._problem, self._done, 1)
        return self._best(pool, seeks_fastest, screen)

    def _best(self, pool: Plans, seeks_fastest: bool, screen: Screen | None) -> tuple[int, ...]:
        drops = self._ranking.draws(pool)
        scores = self._score(pool, drops, seeks_fastest)
        listed = np.argsort(-scores, kind="stable")[:SHORT_LIST]
        if screen is not None and len(listed) > 1:
            drops = self._screened(pool[listed], drops[:, listed], screen)
            best = listed[np.argmax(self._score(pool[listed], drops, seeks_fastest))]
        else:
            best = listed[0]
        return tuple(pool[best].tolist())

    def _score(self, plans: Plans, drops: Floats, seeks_fastest: bool) -> Floats:
        """Profit or promise; where none promises anything, the plan of least drop for its costs."""
        scores = (self._ranking.profit if seeks_fastest else self._ranking.promise)(plans, drops)
        if scores.max() > 0:
            return scores
        costs = self._problem.latencies(plans) + self._problem.sizes(plans)
        nearest: Floats = -drops.mean(axis=0) / self._reach - costs
        return nearest

    def _screened(self, plans: Plans, drops: Floats, screen: Screen) -> Floats:
        """Draws of the drops with the measured damage in place of the sum of the isolated ones."""
        isolated = self._problem.damages(plans).sum(axis=1)
        measured = np.nan_to_num(screen(plans), nan=np.inf, posinf=1e9)
        share = np.where(isolated > 0, measured / np.maximum(isolated, 1e-12), 1.0)
        return self._problem.drop_of(self._problem.damage_of(drops) * np.maximum(share, 0.0))

    def _seeds(self) -> Plans:
        tables = [table[None] for table in self._correction.tables()]
        return untaken(planned(self._problem, tables, SEED_WEIGHTS, self._reach, self._rng), self._done)

    def _pool(self) -> Plans:
        means = [table[None] for table in self._correction.tables()]
        exact = [planned(self._problem, means, MEAN_WEIGHTS, self._reach, self._rng)]
        drawn = self._correction.draw_tables(N_TABLES, self._rng)
        exact.append(planned(self._problem, drawn, DRAW_WEIGHTS, self._reach, self._rng))
        pool = untaken(np.concatenate(exact), self._done)
        parents = np.concatenate([self._ranking.front, pool])
        pool = untaken(np.concatenate([pool, mutants(self._problem, parents, N_MUTANTS, self._rng)]), self._done)
        if not len(pool):
            return pool
        promising = pool[np.argsort(-self._ranking.promise(pool), kind="stable")[:12]]
        return untaken(np.concatenate([pool, mutants(self._problem, promising, N_MUTANTS, self._rng)]), self._done)

    def _wandering(self) -> Plans:
        """A few changes of the front; where predictions are poor, one of them or any plan at all."""
        anywhere = random_plans(self._problem, 4, self._rng)
        parents = self._ranking.front if len(self._ranking.front) else anywhere
        near = mutants(self._problem, parents, 8, self._rng)
        if not self._is_poor:
            return untaken(near, self._done)
        return untaken(anywhere if self._rng.random() < ANYWHERE else near, self._done)[:1]


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation of two series of one length, in [-1, 1]; 0 where one of them is constant.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.5, 9.0]))
    1.0
    """
    ranks = [_ranks(a), _ranks(b)]
    spreads = [float(np.std(r)) for r in ranks]
    if min(spreads, default=0.0) == 0:
        return 0.0
    product = np.mean((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean()))
    return round(float(product / (spreads[0] * spreads[1])), 12)


def _ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts + 1) / 2)[inverse]
    return ranks
