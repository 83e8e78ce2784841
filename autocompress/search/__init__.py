"""Finding the best front in the time given: the evaluation of candidates and the loop over them."""

from autocompress.search.budget import Budget
from autocompress.search.controller import Controller
from autocompress.search.progress import OnProgress, Progress

__all__ = ["Budget", "Controller", "OnProgress", "Progress"]
