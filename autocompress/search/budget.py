"""How long a search may go on: a time or a number of trials."""

import re
from dataclasses import dataclass

from autocompress.errors import BudgetError

MIN_SECONDS = 10.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_FORMS = "give a time such as 90s, 10m or 2h, or a number of trials such as 40trials"


@dataclass(frozen=True)
class Budget:
    """Either `seconds` or `n_trials` is set; it counts from the start of one call, also of one that resumes."""

    seconds: float | None = None
    n_trials: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds >= MIN_SECONDS:
            raise BudgetError(f"a budget must be at least {MIN_SECONDS:g}s, but got {self.seconds:g}s; {_FORMS}")
        if self.n_trials is not None and self.n_trials < 1:
            raise BudgetError(f"a budget must be at least 1 trial, but got {self.n_trials}; {_FORMS}")

    @classmethod
    def parse(cls, text: "str | Budget") -> "Budget":
        """The budget that a person wrote.

        Raises:
            BudgetError: It does not parse or is too small.

        >>> Budget.parse("10m"), Budget.parse("40trials")
        (Budget(seconds=600.0, n_trials=None), Budget(seconds=None, n_trials=40))
        """
        if isinstance(text, Budget):
            return text
        compact = str(text).strip().lower().replace(" ", "")
        if found := re.fullmatch(r"(\d+)trials?", compact):
            return cls(n_trials=int(found[1]))
        if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", compact):
            return cls(seconds=float(found[1]) * _UNITS[found[2]])
        raise BudgetError(f"a budget of {text!r} cannot be read; {_FORMS}")

    def __str__(self) -> str:
        if self.n_trials is not None:
            return f"{self.n_trials}trials"
        seconds = self.seconds or 0.0
        return f"{seconds / 60:g}m" if seconds >= 60 else f"{seconds:g}s"
