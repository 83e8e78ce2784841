"""How good fronts are for how many trials: the project's sampler against all others, on problems with known answers.

python -m examples.benchmarks.search [--smoke]; about an hour. `AUTOCOMPRESS_ONLY=table` runs only that bench
(of table, synthetic, permuted); runs that were finished are not run again.
"""

import os
from functools import partial

from examples.benchmarks.running import run
from examples.benchmarks.search.report import REPORT, benchmark

if __name__ == "__main__":
    only = os.environ.get("AUTOCOMPRESS_ONLY", "").split()
    run(partial(benchmark, only=only), __doc__, REPORT, "two seeds of a few trials; writes nothing")
