"""`durus follow`: keep a copy of a file, a backup or a server up to date. spec/replica.md."""

import argparse
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from durus.backups.replica import Followed, Replica
from durus.backups.sources import source_of
from durus.cli.output import tell
from durus.cli.progress import show_progress
from durus.cli.signals import end_on_signals
from durus.cli.troubles import Troubles, pause, say_waiting
from durus.cli.values import file_name, followed_name, seconds
from durus.error import BackupError, DurusError, FileError, NetworkError, NothingToBackUpError, ServerError
from durus.progress import Progress
from durus.sharing.protocol2 import MAX_SECONDS

_SECONDS_BESIDE = 0.4
"""The time between two looks of a server at what its file follows: with that of the server it is below a second."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=followed_name,
        metavar="SOURCE",
        help="a file, which may be in use, a backup, or durus://host:port",
    )
    parser.add_argument(
        "file",
        type=file_name,
        metavar="FILE",
        help="the copy: a file that this command has made, or one that does not exist yet",
    )
    parser.add_argument(
        "--every",
        type=seconds(MAX_SECONDS),
        default=1.0,
        metavar="SECONDS",
        help="how often to look for changes, in seconds (%(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    end_on_signals()
    troubles = Troubles(say_waiting)
    with contextlib.closing(Replica(source_of(options.source), options.file)) as replica:
        tell(f"{options.file}: following {options.source}", flush=True)
        for done in replica.rounds(options.every, pause, troubles.note, show_progress):
            troubles.end()
            tell(describe(options.file, done), flush=True)
    return 0


def describe(path: str, done: Followed) -> str:
    """Say what a round has done, and how far the copy is behind. [CMD-65]"""
    what = f"{done.size} bytes copied, from the beginning," if done.is_new else f"{done.added} bytes added,"
    age = (datetime.now(UTC) - datetime.fromisoformat(done.time)).total_seconds()
    line = f"{path}: {what} up to the commit of {done.time}, {max(age, 0):.1f} s ago"
    if done.unsealed:
        line += f"; {done.unsealed} bytes at the end of the source have no seal yet and are not in it"
    return line


class _Stopped(Exception):
    """Ends a round of a server that stops."""


@contextlib.contextmanager
def following_beside(source: str, path: str) -> Iterator[None]:
    """Follow a source in a thread of its own; the copy exists when the block begins. [CMD-66]"""
    logger = logging.getLogger("durus")
    troubles = Troubles(lambda text: logger.warning("waiting: %s", text))
    stop = threading.Event()
    replica = Replica(source_of(source), path)

    def run(steps: Iterator[Progress]) -> None:
        for _ in steps:
            if stop.is_set():
                raise _Stopped

    def follow() -> None:
        while not stop.is_set():
            try:
                for done in replica.rounds(_SECONDS_BESIDE, stop.wait, troubles.note, run, has_run=True):
                    troubles.end()
                    logger.info("%s", describe(path, done))
            except _Stopped:
                return
            except DurusError as error:  # the clients can still read what is there
                troubles.note(error)
                stop.wait(_SECONDS_BESIDE)

    thread = threading.Thread(target=follow, name="follow")
    with contextlib.closing(replica):
        while not _first_round(replica, path, troubles):
            time.sleep(_SECONDS_BESIDE)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _first_round(replica: Replica, path: str, troubles: Troubles) -> bool:
    """Make a round; return False if there is no copy yet. A source that can't be reached may be gone for good."""
    try:
        show_progress(replica.steps())
    except NothingToBackUpError as error:
        troubles.note(error)
        return replica.is_open
    except (FileError, NetworkError, ServerError, BackupError) as error:
        if not replica.is_open:
            raise
        troubles.note(error)
    return True
