"""A small world for samplers: layers whose input bits are asked only where weights are integer, and a truth."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from autocompress.planning.problem import Cost, Problem, Unit
from autocompress.search.samplers import make_sampler

INPUT_BITS = (8, 7)
ALL = ("accuracy_drop", "latency", "size_bytes")
BASELINE_SIZE = 1000.0  # bytes
MAX_DROP = 0.05
DAMAGE = {32: 0.0, 8: 0.004, 4: 0.03}


class Layers:
    """`n` layers; a unit's choices are (weight bits, input bits), the latter None where weights are float."""

    def __init__(self, n: int, bits: tuple[int, ...] = (32, 8, 4), input_bits: tuple[int, ...] = INPUT_BITS) -> None:
        self.n, self.bits, self.input_bits = n, bits, input_bits
        self.choices = [(b, a) for b in bits for a in ((None,) if b == 32 else input_bits)]

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        every: dict[str, BaseDistribution] = {}
        for i in range(self.n):
            every[f"{i}/weight_bits"] = CategoricalDistribution(self.bits)
        for i in range(self.n):
            every[f"{i}/activation_bits"] = CategoricalDistribution(self.input_bits)
        return {name: d for name, d in every.items() if not d.single()}

    def choice(self, params: Mapping[str, Any], i: int) -> tuple[int, int | None]:
        bits = params[f"{i}/weight_bits"] if len(self.bits) > 1 else self.bits[0]
        if bits == 32:
            return bits, None
        return bits, params[f"{i}/activation_bits"] if len(self.input_bits) > 1 else self.input_bits[0]

    def encode(self, params: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(self.choices.index(self.choice(params, i)) for i in range(self.n))

    def decode(self, plan: tuple[int, ...]) -> dict[str, Any]:
        chosen = [self.choices[c] for c in plan]
        every = {f"{i}/weight_bits": bits for i, (bits, _) in enumerate(chosen)}
        every |= {f"{i}/activation_bits": a or self.input_bits[0] for i, (_, a) in enumerate(chosen)}
        return {name: every[name] for name in self.distributions}

    def suggest(self, trial: optuna.Trial) -> tuple[int, ...]:
        """Asks as `BoundSpace.suggest` does: for weights first, for inputs only where they have an effect."""
        asked: dict[str, Any] = {}

        def ask(name: str) -> None:
            if name in self.distributions:
                asked[name] = trial.suggest_categorical(name, self.distributions[name].choices)  # type: ignore

        for i in range(self.n):
            ask(f"{i}/weight_bits")
        for i in range(self.n):
            if asked.get(f"{i}/weight_bits", self.bits[0]) != 32:
                ask(f"{i}/activation_bits")
        return self.encode(asked)

    def asked(self, plan: tuple[int, ...]) -> dict[str, Any]:
        """The parameters that are asked for a plan, as an enqueued anchor has them."""
        params = self.decode(plan)
        floats = {f"{i}/activation_bits" for i, c in enumerate(plan) if self.choices[c][0] == 32}
        return {name: value for name, value in params.items() if name not in floats}

    @property
    def n_plans(self) -> int:
        return len(self.choices) ** self.n


class World:
    """A study to be searched: the problem that is believed, and the truth, which differs from it."""

    def __init__(self, layers: Layers, objectives: tuple[str, ...] = ALL) -> None:
        self.layers, self.objectives = layers, objectives
        rng = np.random.default_rng(7)
        weights = rng.uniform(0.5, 1.5, layers.n)
        kinds = ("8 bits", "4 bits")
        units, costs = [], []
        for i, weight in enumerate(weights / weights.sum()):
            damage = np.array([[_damage(b, a, 8), _damage(b, a, 4)] for b, a in layers.choices])
            units.append(Unit(str(i), tuple(map(str, layers.choices)), damage * rng.uniform(0.3, 3) * 6 / layers.n))
            latency = weight * np.array([1.0 if b == 32 else 0.5 if a == 8 else 0.45 for b, a in layers.choices])
            costs.append(Cost((i,), 0.9 * latency, weight * np.array([b / 32 for b, _ in layers.choices])))
        self.problem = Problem(
            tuple(units), kinds, np.array([1.0, 0.5]), tuple(costs), 0.1, 0.0, MAX_DROP, 0.9, objectives
        )
        self._error = rng.lognormal(0, 0.3, (layers.n, len(layers.choices)))

    def drop(self, plan: tuple[int, ...]) -> float:
        damage = sum(u.damage[c] @ self.problem.recovery * self._error[i, c] for i, (u, c) in enumerate(self._at(plan)))
        return float(self.problem.drop_of(np.array(damage)))

    def values(self, plan: tuple[int, ...]) -> list[float]:
        """Trial values, as far as they are objectives."""
        plans = np.array([plan])
        latency, size = float(self.problem.latencies(plans)[0]), float(self.problem.sizes(plans)[0]) * BASELINE_SIZE
        every = dict(zip(ALL, (self.drop(plan), latency, size), strict=True))
        return [every[name] for name in self.objectives]

    def study(self, storage: Any = None) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = ["minimize"] * len(self.objectives)
        return optuna.create_study(storage=storage, directions=directions, study_name="s", load_if_exists=True)

    def sampler(self, name: str, seed: int = 0, **more: Any) -> optuna.samplers.BaseSampler:
        scales = (1.0, 1.0, BASELINE_SIZE)
        return make_sampler(name, self.layers, lambda: self.problem, seed=seed, scales=scales, **more)

    def started(self, name: str, **more: Any) -> optuna.Study:
        study = self.study()
        study.sampler = self.sampler(name, **more)
        return study

    def tell(self, study: optuna.Study, trial: optuna.Trial, plan: tuple[int, ...], excess: float = 0.0) -> None:
        trial.set_user_attr("drop_error", 0.002)
        trial.set_constraint("accuracy_drop", self.drop(plan) + excess - MAX_DROP)
        study.tell(trial, self.values(plan))

    def go(self, study: optuna.Study, n: int, excess: float = 0.0) -> list[tuple[int, ...]]:
        """Plans of `n` trials, each evaluated."""
        plans = []
        for _ in range(n):
            trial = study.ask()
            plans.append(self.layers.suggest(trial))
            self.tell(study, trial, plans[-1], excess)
        return plans

    def _at(self, plan: tuple[int, ...]) -> list[tuple[Unit, int]]:
        return list(zip(self.problem.units, plan, strict=True))


def journal(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


def _damage(bits: int, input_bits: int | None, kind: int) -> float:
    return DAMAGE[bits] * (1.1 if input_bits == 7 else 1.0) if bits == kind else 0.0
