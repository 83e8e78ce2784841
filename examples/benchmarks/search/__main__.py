"""How good fronts are for how many trials: the project's sampler against all others, on problems with known answers.

python -m examples.benchmarks.search [--smoke]
"""

from examples.benchmarks.running import run
from examples.benchmarks.search.report import REPORT, benchmark

if __name__ == "__main__":
    run(benchmark, __doc__, REPORT, "three seeds of a few trials; writes nothing")
