"""What a search plans with: units, a damage table, a latency and a size model, corrected by what it measures."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import optuna

from autocompress.explanation import Explanation
from autocompress.graph import ModelGraph
from autocompress.measurement import Interval, Measurement
from autocompress.pareto import Candidate
from autocompress.planning.correction import Correction, Observation
from autocompress.planning.problem import Floats, Plans, Problem
from autocompress.processes import OutOfTimeError, WorkFailedError
from autocompress.recipe import Recipe
from autocompress.search.clock import SearchClock
from autocompress.search.configuration import Configuration
from autocompress.search.cost_models import cost_models
from autocompress.search.damage import affordable_samples, damage_table
from autocompress.search.damage_data import SAMPLE_COUNTS
from autocompress.search.damage_file import Damage
from autocompress.search.damage_table import drop_per_divergence, linked_damage
from autocompress.search.decisions import net_layers
from autocompress.search.explain import explain
from autocompress.search.long_rung import LONG
from autocompress.search.plan_costs import PlanTables, plan_tables
from autocompress.search.plan_space import PlanSpace, plan_space
from autocompress.search.problem_of import problem_of, undominated
from autocompress.search.samplers import make_sampler
from autocompress.search.worker import Worker
from autocompress.space import BoundSpace

PLANNING = ("bayesdp", "spdy", "greedy")  # samplers that ask for the damage table
TABLE_SHARE, TABLE_SECONDS = 0.08, 300.0  # of the budget for the damage table, and at most
_LATENCY_SHARE, _LATENCY_SECONDS = 0.05, 180.0  # for timing random recipes
_LEAST_SECONDS = 6.0  # for either; less would tell nothing
_SLICE = 16  # choices measured between two reports; activations are kept for those of one slice
_SCREEN_SECONDS = 10.0
FASTEST = 0.6  # of the proposals seek the fastest plan that keeps the floor, the others widen the front
_SHORT_LEAST_STEPS = 20  # a shorter training costs less than a screening


class Engine:
    """Plans for one search.

    Args:
        bound: The space; it must leave something to decide.
        graph: What was found in the model.
        configuration: What was asked for, the number of training steps included.
        baseline: Of the FP32 model.
        worker: For measuring.
        report: Told what is being done.

    Attributes:
        space: Units with choices; after `prepare` without those that no plan may want.
        plans: Whether the sampler plans with a damage table.
        is_ready: Whether it can make a sampler: always, but for those that plan with measured tables.
        findings: Sentences for the user about what was skipped.
        largest: Accuracy drop after the short training up to which a candidate may still be chosen in the end.
    """

    def __init__(
        self,
        bound: BoundSpace,
        graph: ModelGraph,
        configuration: Configuration,
        baseline: Measurement,
        worker: Worker,
        report: Callable[[str], None],
    ) -> None:
        self._configuration, self._worker, self._report = configuration, worker, report
        self._whole, self._layers = plan_space(bound, graph), net_layers(graph)
        self.space: PlanSpace = self._whole
        self.findings: list[str] = []
        self._seconds: dict[str, float] = {}
        self.largest = configuration.max_drop
        self.plans = configuration.sampler in PLANNING
        self.is_ready = not self.plans
        self._damage: dict[str, Damage] = {}
        self._n_samples = SAMPLE_COUNTS[0]  # that damages are measured on
        self._tables: PlanTables | None = None
        self._known: set[str] = set()
        self._score, self._baseline_bytes = abs(baseline.accuracy) or 1.0, float(baseline.size_bytes)
        self._deadline: float | None = None

    def prepare(self, clock: SearchClock) -> None:
        """Measure damages and costs, as far as the budget allows; says in `findings` what it does not.

        Where that fails, recipes are drawn at random from now on.

        Args:
            clock: Of the search.

        Raises:
            OutOfTimeError: The budget ended.
        """
        self._deadline = clock.deadline
        try:
            self._measure(clock)
        except WorkFailedError as error:
            self.plans = False
            self.findings.append(f"nothing was planned, recipes were drawn at random: {error}")
        self.is_ready = True

    def _measure(self, clock: SearchClock) -> None:
        start = time.monotonic()
        self._report("measuring what latency and size depend on")
        latency_seconds, table_seconds = self._seconds_of(clock)
        self._latency, self._size = self._worker.call(
            cost_models, latency_seconds, latency_seconds >= _LEAST_SECONDS, deadline=self._deadline
        )
        self._seconds["latency model"] = time.monotonic() - start
        self._measure_damage(table_seconds)
        self._tables = plan_tables(self.space, self._size)
        self.space = self._whole.thinned(undominated(self.problem()))
        self._tables = plan_tables(self.space, self._size)

    def planning_seconds(self, clock: SearchClock) -> float:
        """Forecast of what `prepare` takes."""
        return sum(seconds for seconds in self._seconds_of(clock) if seconds >= _LEAST_SECONDS)

    def _seconds_of(self, clock: SearchClock) -> tuple[float, float]:
        """At most so many for the latency model, and for the damage table."""
        n_steps = self._configuration.finetune_steps or 0
        return (
            clock.planning_seconds(_LATENCY_SHARE, _LATENCY_SECONDS, n_steps),
            clock.planning_seconds(TABLE_SHARE, TABLE_SECONDS, n_steps),
        )

    def _measure_damage(self, seconds: float) -> None:
        """Measure single choices while there is time; what was measured before costs none."""
        start = time.monotonic()
        recipes = list(self.space.isolated)
        n_all = len(recipes)
        if seconds < _LEAST_SECONDS:
            self._n_samples = SAMPLE_COUNTS[-1]  # what is known from more counts, too
            self._damage |= self._damages_of(recipes, 0.0)
            recipes = []
        else:
            self._n_samples = self._worker.call(affordable_samples, n_all, seconds, deadline=self._deadline)
        while recipes and (left := seconds - (time.monotonic() - start)) > 0:
            self._report(f"measuring the damage of single choices ({n_all - len(recipes)} of {n_all})")
            part, recipes = recipes[:_SLICE], recipes[_SLICE:]
            self._damage |= self._damages_of(part, left)
        self._seconds["damage table"] = time.monotonic() - start
        n_missing = sum(recipe.digest() not in self._damage for recipe in self.space.isolated)
        if n_missing == n_all:
            self.findings.append(
                f"no time for the damage table: what each of {n_all} choices does is estimated from how "
                "much it changes; a longer budget measures it"
            )
        elif n_missing:
            self.findings.append(
                f"the damage of {n_missing} of {n_all} choices is estimated from that of others: there was no time to "
                "measure all, or they could not be"
            )

    def _damages_of(self, recipes: Sequence[Recipe], seconds: float) -> dict[str, Damage]:
        """By digest, of those that are known or can be measured in the time."""
        found = self._worker.call(damage_table, recipes, seconds, self._n_samples, deadline=self._deadline)
        damages: dict[str, Damage] = found.damages
        return damages

    def take_seconds(self) -> dict[str, float]:
        """Seconds of measuring by phase, since this was last asked."""
        taken, self._seconds = self._seconds, {}
        return taken

    def learn(self, candidates: Iterable[Candidate]) -> None:
        """Take the latencies of measured candidates over into the latency model."""
        if not (self.plans and self.is_ready):
            return
        for c in candidates:
            if c.measurement and c.digest not in self._known:
                self._known.add(c.digest)
                self._latency.update(c.recipe, c.measurement.speedup)

    def problem(self) -> Problem:
        """What is planned, by all that is known now."""
        return self._problem_of(self.space, self._tables)

    def _problem_of(self, space: PlanSpace, tables: PlanTables | None) -> Problem:
        c = self._configuration
        return problem_of(
            space,
            self._damage,
            self._latency,
            self._size,
            max_drop=c.max_drop if c.sampler == "greedy" else self.largest,
            largest_drop=self._score,
            objectives=c.objectives,
            training_steps=c.finetune_steps or 0,
            tables=tables,
        )

    def sampler(self, anchors: Mapping[str, Recipe]) -> optuna.samplers.BaseSampler:
        """The study's sampler.

        Args:
            anchors: Recipes by label that are tried anyway; the first that is compressed is where `greedy` starts.
        """
        c = self._configuration
        start = next((recipe for label, recipe in anchors.items() if label != "fp32"), None)
        return make_sampler(
            c.sampler if self.plans or c.sampler not in PLANNING else "random",
            self.space,
            self.problem,
            seed=c.seed,
            scales=(1.0, 1.0, self._baseline_bytes),
            screen=self._screen if (c.finetune_steps or 0) >= _SHORT_LEAST_STEPS else None,
            start=self.space.plan_of(start) if start is not None else None,
            fastest=FASTEST,
        )

    def _screen(self, plans: Plans) -> Floats:
        """Joint damage of a few plans, calibrated but not trained; infinite where it could not be measured."""
        recipes = [self.space.recipe(plan) for plan in plans.tolist()]
        self._report(f"trying {len(recipes)} recipes without training")
        start = time.monotonic()
        try:
            found = self._damages_of(recipes, _SCREEN_SECONDS)
        except (WorkFailedError, OutOfTimeError):
            found = {}
        self._seconds["screening"] = self._seconds.get("screening", 0.0) + time.monotonic() - start
        slope = drop_per_divergence(list(self._damage.values()), self._score)
        damages = [found.get(recipe.digest()) for recipe in recipes]
        return np.array([linked_damage(d, slope, self._score) if d else math.inf for d in damages])

    def explanation(
        self, candidates: Sequence[Candidate], chosen: str, short_drops: Mapping[str, Interval]
    ) -> Explanation | None:
        """Why the chosen candidate is what it is; None for samplers without a damage table.

        Args:
            candidates: All, the baseline among them.
            chosen: Digest of the choice.
            short_drops: Drops after the short training by digest.
        """
        measured = [(c, c.measurement) for c in candidates if c.measurement]
        baseline = next((m for c, m in measured if c.recipe.is_identity), None)
        if not (self.plans and self.is_ready) or baseline is None:
            return None
        self.learn(candidates)
        space, problem = self._whole, self._problem_of(self._whole, None)
        rows, observations = [], []
        for c, m in measured:
            if c.digest not in short_drops or not space.has(c.recipe):
                continue
            plan = space.plan_of(c.recipe)
            drop, latency, size = short_drops[c.digest], 1 / m.speedup.value, m.size_bytes / baseline.size_bytes
            rows.append((c.digest, plan, drop.value, latency, size))
            observations.append(Observation(plan, drop.value, drop.standard_error, latency, size))
        recipe = next(c.recipe for c, _ in measured if c.digest == chosen)
        return explain(
            problem,
            Correction(problem, observations),
            space.plan_of(recipe) if space.has(recipe) else None,
            baseline_ms=baseline.latency_ms,
            baseline_bytes=baseline.size_bytes,
            measured=rows,
            rungs=_rungs(candidates),
            layers=self._layers,
        )


def _rungs(candidates: Sequence[Candidate]) -> dict[str, int]:
    """How many candidates reached each rung; the longer training comes after a short one."""
    n_long = sum(c.rung == LONG for c in candidates)
    return {"short": n_long + sum(c.rung == "short" for c in candidates), LONG: n_long}
