"""Back up a file that is in use, verify the backup, and restore from it. spec/backup.md.

    back_up     adds to a backup what is new in a file
    follow      does this repeatedly
    verify      checks a whole backup
    restore     makes a file from a backup, with the state of the last commit or of an earlier one

The commands `durus backup` and `durus restore` call these functions.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime

from durus.backups.back_up import BackedUp, BackUp
from durus.backups.following import back_up_rounds
from durus.backups.restore import Restore, Restored
from durus.backups.verify import GenerationReport, Verification
from durus.error import DurusError
from durus.files.file import Path

__all__ = ["BackedUp", "GenerationReport", "Restored", "back_up", "follow", "restore", "verify"]


def back_up(path: Path, target: Path, *, keep: int | None = None) -> BackedUp:
    """Add what is new in the file to the backup `target`.

    The file may be in use: it is not locked. When the call returns, the backup contains everything that was committed
    before the call. An interrupted backup leaves the target as it was. [BACKUP-10] [BACKUP-15]

    Args:
        path: A SHELF-1 file.
        target: A folder, which is created if it does not exist; or a place in an object store, `s3://BUCKET/PREFIX`,
            `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`, with the extra `durus[cloud]`. [BACKUP-50]
        keep: How many generations to keep; older ones are dropped. None keeps all.

    Returns:
        What was done.

    Raises:
        NothingToBackUpError: The file has no seal yet.
        BackupError: The folder is not a backup and has other files, or its manifest is missing; or the extra
            `durus[cloud]` is not installed.
        FormatError: The file is not a SHELF-1 file, or the manifest is of another format.
        DamageError: The file or the manifest is damaged. The backup stays as it was.
        LockedError: Another backup is writing to the folder, or has been made in the same place of an object store.
        ObjectStoreError: An object store can't be reached, or refuses something.
        FileError: The operating system refused something.
        ArgumentError: `keep` is below 1.
    """
    return BackUp(path, target, keep).finish()


def follow(
    path: Path,
    target: Path,
    *,
    keep: int | None = None,
    interval: float = 1.0,
    stop: threading.Event | None = None,
    on_trouble: Callable[[DurusError], object] = lambda error: None,
) -> Iterator[BackedUp]:
    """Back up the file repeatedly, and yield what was done each time something was new.

    It waits for the first seal of the file, and while another backup writes to the target. After the first complete
    backup, it also waits while the file or the target can't be reached. [BACKUP-21]

    Args:
        path: As for back_up().
        target: As for back_up().
        keep: As for back_up().
        interval: The seconds between the end of one backup and the start of the next one.
        stop: An event that ends the loop. With None it runs for ever.
        on_trouble: Takes the error for which it waits, each time.

    Yields:
        What was done.

    Raises:
        DurusError: As back_up().
    """
    stop = threading.Event() if stop is None else stop
    if not stop.is_set():
        yield from back_up_rounds(lambda: BackUp(path, target, keep), interval, stop.wait, on_trouble)


def verify(target: Path) -> list[GenerationReport]:
    """Read a whole backup, and compare it with its checksums.

    Args:
        target: The backup, as for back_up().

    Returns:
        A report on each generation, the oldest first. A generation without problems can be restored.

    Raises:
        BackupError: The folder is not a backup.
        DamageError: The manifest is damaged.
        FormatError: The manifest is of another format.
        FileError: The operating system refused something.
    """
    return Verification(target).finish()


def restore(target: Path, path: Path, *, at: str | datetime | None = None) -> Restored:
    """Make a file from a backup, with the state of its last commit, or of the last commit not later than `at`.

    Everything that is restored is checked before the file gets its name. An existing file is never replaced. Only the
    owner of the new file may read it. [BACKUP-30] to [BACKUP-33]

    Args:
        target: The backup, as for back_up().
        path: The name of the new file.
        at: A time in ISO 8601, or a datetime; without an offset from UTC it is in UTC. None means the newest state.

    Returns:
        What was restored.

    Raises:
        BackupError: The folder is not a backup, or the backup is empty.
        ArgumentError: `at` is not a time, or the backup has no state from that time or before.
        AlreadyExistsError: A file with that name already exists.
        DamageError: The state to restore is damaged; no file is made.
        FormatError: The manifest is of another format.
        FileError: The operating system refused something.
    """
    return Restore(target, path, at).finish()
