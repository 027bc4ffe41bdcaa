"""`durus info --plot`: the plots of the browser in a file. Statement CMD-58."""

import os
from contextlib import closing

from durus.browser import charts
from durus.browser.index import Index
from durus.browser.timeline import Timeline
from durus.cli.options import is_address, open_history
from durus.cli.progress import show_progress
from durus.files.file import OperatingSystem
from durus.files.inspection import Records
from durus.files.publishing import publishing
from durus.text import printable, without_password


def write_plot(name: str, records: Records, path: str) -> None:
    """Write the plots of a database into a new file, which gets its name when it is complete."""
    files = OperatingSystem()
    with publishing(os.path.realpath(path), files) as part:
        index = Index(records)
        show_progress(index.steps())
        plots = [charts.of_classes((each.name, each.size) for each in index.by_number)]
        storage = open_history(name)
        if storage is not None:
            with closing(storage):
                timeline = Timeline(storage)
                show_progress(timeline.steps())
            if len(timeline.points) > 1:
                plots.insert(0, charts.over_time(timeline.points))
        with closing(files.open(part, "private")) as file:
            if not is_address(name):
                with closing(files.open(os.path.realpath(name), "read")) as like:
                    file.copy_permissions(like)  # it tells the names of classes
            file.append(charts.standalone(printable(without_password(name)), plots).encode(), 0)
            file.sync()
