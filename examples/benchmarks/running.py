"""The command line of a benchmark that writes one Markdown file."""

import argparse
import time
from pathlib import Path
from typing import Protocol


class Benchmark(Protocol):
    """Everything that a benchmark finds out, as Markdown."""

    def __call__(self, *, smoke: bool) -> str:
        """Run it, or with `smoke` a slice of it."""


def run(benchmark: Benchmark, description: str | None, target: Path, smoke: str) -> None:
    """Run a benchmark, print its tables, write them down.

    Args:
        benchmark: The benchmark.
        description: For `--help`.
        target: Markdown file to write.
        smoke: What `--smoke` does, for `--help`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help=smoke)
    parser.add_argument("--out", type=Path, default=target, help="Markdown file to write")
    arguments = parser.parse_args()
    start = time.monotonic()
    text = benchmark(smoke=arguments.smoke)
    text += f"\nThe run took {time.monotonic() - start:.0f} seconds.\n"
    print(text)
    if not arguments.smoke:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)
