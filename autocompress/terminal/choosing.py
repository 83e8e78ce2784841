"""What `choose` shows while it works: a bar of the training under way, with a forecast, on a terminal."""

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.text import Text

from autocompress.search.progress import Progress
from autocompress.terminal.live import LiveView, clock


class ChoiceView(LiveView):
    """A live view of what is done with a choice on a terminal; elsewhere only its messages.

    Args:
        console: Where to draw.
    """

    def update(self, progress: Progress) -> None:
        """Show the present state; a message stays as a line."""
        if progress.message:
            self._console.print(progress.message, markup=False, highlight=False, soft_wrap=True)
        if self._live:
            self._live.update(self.render(progress))

    def render(self, progress: Progress) -> Group:
        """The phase with the time that is left, and of a training its line and a bar of its steps."""
        self._training.update(progress)
        line = self._training.text(progress)
        n_done = progress.training.step if progress.training else 0
        bar = ProgressBar(total=progress.n_steps, completed=n_done, width=40) if progress.n_steps else None
        return Group(
            Text.assemble((progress.phase, "bold"), f", about {clock(progress.seconds_left)} left"),
            *([line] if line else []),
            *([bar] if bar else []),  # last, since it does not end its line
        )
