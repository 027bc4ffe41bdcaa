"""A progress bar by rich, which is in the extra `durus[cli]`: importing this fails where it is not installed."""

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from durus.progress import Progress


def show_bar(steps: Iterable[Progress]) -> Iterator[None]:
    """Show each step on stderr, one bar for the current phase; remove it at the end. No thread is started."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Bar(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=None)
        phase = None
        for progress in steps:
            if progress.phase != phase:
                phase = progress.phase
                bar.reset(task, description=phase, total=progress.total)
            bar.update(task, completed=progress.done, total=progress.total, refresh=True)
            yield
