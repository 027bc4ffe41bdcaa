"""Backups of a file that is in use, and what is restored from them. spec/backup.md.

    back_up     adds to a backup what a file has and the backup does not
    follow      does so again and again
    verify      reads all of a backup
    restore     makes a file of it, as it was at the last commit or at an earlier one

`durus backup` and `durus restore` are these functions as commands.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import datetime

from durus.backups.back_up import BackedUp, BackUp
from durus.backups.restore import Restore, Restored
from durus.backups.verify import GenerationReport, Verification
from durus.error import BackupError, LockedError, NothingToBackUpError
from durus.files.file import Path

__all__ = ["BackedUp", "GenerationReport", "Restored", "back_up", "follow", "restore", "verify"]


def back_up(path: Path, target: Path, *, keep: int | None = None) -> BackedUp:
    """Add to the backup in the folder `target` what the file has and the backup does not.

    The file may be in use: no lock is taken on it. What was committed before the call is in the backup when it
    returns. A backup that is interrupted leaves the folder as it was. [BACKUP-10] [BACKUP-15]

    Args:
        path: A SHELF-1 file.
        target: The folder, which is made if it is not there.
        keep: How many generations to keep; older ones are dropped. None keeps all.

    Returns:
        What was done.

    Raises:
        NothingToBackUpError: The file has no seal yet.
        BackupError: The folder is no backup and has other files, or its manifest is missing.
        FormatError: The file is not a SHELF-1 file, or the manifest is of another format.
        DamageError: The file or the manifest is damaged. The backup stays as it was.
        LockedError: Another backup writes into the folder.
        FileError: The operating system refused something.
        ArgumentError: `keep` is below 1.
    """
    run = BackUp(path, target, keep)
    for _ in run.steps():
        pass
    if run.result is None:
        raise BackupError(f"{os.fsdecode(path)}: the backup did not come to its end")
    return run.result


def follow(
    path: Path, target: Path, *, keep: int | None = None, interval: float = 1.0, stop: threading.Event | None = None
) -> Iterator[BackedUp]:
    """Back the file up again and again, and yield what was done whenever there was something to do.

    A file without a seal is waited for, and so is another backup that writes into the folder. [BACKUP-21]

    Args:
        path: As for back_up().
        target: As for back_up().
        keep: As for back_up().
        interval: The seconds from the end of one backup to the beginning of the next one.
        stop: An event that ends it. None goes on for ever.

    Yields:
        What was done.

    Raises:
        DurusError: As back_up().
    """
    stop = threading.Event() if stop is None else stop
    while not stop.is_set():
        with contextlib.suppress(NothingToBackUpError, LockedError):
            done = back_up(path, target, keep=keep)
            if done.is_new or done.added or done.dropped:
                yield done
        stop.wait(interval)


def verify(target: Path) -> list[GenerationReport]:
    """Read all of a backup, and compare it with its checksums.

    Args:
        target: The folder of the backup.

    Returns:
        What was found out about each generation, the oldest first. One without problems can be restored.

    Raises:
        BackupError: The folder is no backup.
        DamageError: The manifest is damaged.
        FormatError: The manifest is of another format.
        FileError: The operating system refused something.
    """
    verification = Verification(target)
    for _ in verification.steps():
        pass
    return verification.generations


def restore(target: Path, path: Path, *, at: str | datetime | None = None) -> Restored:
    """Make a file of a backup, with the state of the last commit in it, or of the last one at a time or before.

    All that is restored is checked before the file gets its name. A file that is there is never replaced. Only the
    owner of the new file may read it. [BACKUP-30] to [BACKUP-33]

    Args:
        target: The folder of the backup.
        path: The name of the new file.
        at: A time in ISO 8601, or a datetime; without an offset from UTC it is in UTC. None is the newest state.

    Returns:
        What was restored.

    Raises:
        BackupError: The folder is no backup, or there is nothing in it.
        ArgumentError: `at` is no time, or the backup has nothing of that time or before.
        AlreadyExistsError: There is a file of that name.
        DamageError: What is to be restored is damaged; no file is made.
        FormatError: The manifest is of another format.
        FileError: The operating system refused something.
    """
    run = Restore(target, path, at)
    for _ in run.steps():
        pass
    if run.result is None:
        raise BackupError(f"{os.fsdecode(target)}: the restoring did not come to its end")
    return run.result
