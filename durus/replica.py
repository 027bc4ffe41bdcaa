"""Keep a copy of a file up to date while the file is in use. spec/replica.md.

    follow      copies a file, a backup or the file of a server, and continues with what is new in it

The command `durus follow` calls this function.
"""

import contextlib
import threading
from collections.abc import Callable, Generator

from durus.backups.replica import Followed, Replica
from durus.backups.sources import source_of
from durus.error import DurusError
from durus.files.file import Path

__all__ = ["Followed", "follow"]


def follow(
    source: Path,
    path: Path,
    *,
    interval: float = 1.0,
    stop: threading.Event | None = None,
    on_trouble: Callable[[DurusError], object] = lambda error: None,
) -> Generator[Followed, None, None]:
    """Make a copy of the source, keep it up to date, and yield what was done each time something was new.

    The copy is at every moment a sound beginning of the source, also after a crash, and can be read and served with
    readonly=True meanwhile. It waits for the first seal of the source. Once it has copied the source, it also waits
    while the source can't be reached. [REPL-10] to [REPL-18]

    Args:
        source: A SHELF-1 file, which may be in use, a backup, as for durus.backup.restore(), or the address of a
            server, as `durus://host:port`.
        path: The name of the copy: a file that does not exist, or that was made by an earlier call.
        interval: The seconds between the end of one round and the beginning of the next one.
        stop: An event that ends the loop. With None it runs for ever.
        on_trouble: Takes the error for which it waits, each time.

    Yields:
        What was done. Closing the generator releases the copy.

    Raises:
        ReplicaError: The file is not a replica of this source, or was written to by others.
        LockedError: The copy is open for writing elsewhere, or another call follows into it.
        DamageError: The source or the copy is damaged.
        BackupError: The folder is not a backup.
        FormatError: The source is not a SHELF-1 file.
        FileError: The operating system refused something.
        NetworkError: The server can't be reached.
        ServerError: The server has no SHELF-1 file.
        ArgumentError: The source and the copy are the same file.
    """
    stop = threading.Event() if stop is None else stop
    with contextlib.closing(Replica(source_of(source), path)) as replica:
        yield from replica.rounds(interval, stop.wait, on_trouble)
