"""The probe of the processor: its progress, and its answers."""

import time
from types import TracebackType

from rich.console import Console

from autocompress.cpu_probe import CpuProbe
from autocompress.report.cpu_table import cpu_sentences, cpu_table


class ProbeView:
    """A status line on a terminal while a probe is under way; nothing elsewhere.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._status = console.status("probing the processor")
        self._start = time.monotonic()

    def __enter__(self) -> "ProbeView":
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def update(self, n_done: int, n_total: int, words: str) -> None:
        """Show which comparison comes next, and how many are done."""
        spent = time.monotonic() - self._start
        left = f", about {spent / n_done * (n_total - n_done):.0f} s left" if n_done else ""
        self._status.update(f"probing the processor, {n_done} of {n_total}{left}: {words}")


def print_probe(console: Console, probe: CpuProbe, remark: str = "") -> None:
    """Every comparison, then what follows from them, and a remark about the whole."""
    console.print(cpu_table(probe), highlight=False)
    for sentence in cpu_sentences(probe):
        console.print(f"· {sentence}", markup=False, highlight=False)
    if remark:
        console.print(remark, markup=False, highlight=False)
