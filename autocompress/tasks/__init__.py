"""Built-in tasks by name, each with its data and trained weights embedded."""

from collections.abc import Callable

from autocompress.task import Task
from autocompress.tasks.fashion import fashion

BUILT_IN: dict[str, Callable[[], Task]] = {"fashion": fashion}
