"""How long one proposal takes in a large study."""

import time

import numpy as np

from autocompress.planning.correction import Observation
from autocompress.planning.proposer import Proposer
from examples.benchmarks.search.synthetic import DROP_ERROR, Synthetic
from examples.benchmarks.search.targets import Target

MAX_SECONDS, N_PROPOSALS = 1.0, 5


def proposal_target(n_units: int, n_trials: int) -> Target:
    """Seconds of one proposal after `n_trials` trials on a network of `n_units` units; work of one thread counts."""
    network = Synthetic(n_units)
    rng = np.random.default_rng(0)
    plans = rng.integers(len(network.problem.units[0].choices), size=(n_trials, n_units))
    observations = []
    for plan in map(tuple, plans.tolist()):
        drop, latency, size = network.evaluate(plan, rng)
        observations.append(Observation(plan, drop, DROP_ERROR, latency, size))
    proposer, taken = Proposer(network.problem), {o.plan for o in observations}
    seconds = []
    for number in range(n_trials, n_trials + N_PROPOSALS):
        start = time.process_time()
        proposer.propose(observations, taken, number)
        seconds.append(time.process_time() - start)
    measured = f"{np.median(seconds):.2f} s in the median, {max(seconds):.2f} s at most, of {N_PROPOSALS}"
    wanted = f"proposal time at most {MAX_SECONDS:g} s for {n_units} units and {n_trials} trials"
    return Target(wanted, measured, max(seconds) <= MAX_SECONDS)
