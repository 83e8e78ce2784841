"""Running command lines in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from rich.console import Console

from autocompress.cli import main


@dataclass
class Done:
    """What came of a command line."""

    code: int
    out: str
    error: str


Command = Callable[..., Done]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line; what OpenVINO itself writes is captured, too."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["autocompress", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        for module in ("cli", "commands"):
            monkeypatch.setattr(f"autocompress.{module}.console", Console(width=200))
        with pytest.raises(SystemExit) as caught:
            main()
            raise SystemExit(0)
        captured = capfd.readouterr()
        return Done(int(caught.value.code or 0), captured.out, captured.err)

    return run
