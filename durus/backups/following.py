"""Back up a file again and again. Statement BACKUP-21."""

from collections.abc import Callable, Iterator

from durus.backups.back_up import BackedUp, BackUp
from durus.error import DurusError, FileError, LockedError, NothingToBackUpError, ObjectStoreError
from durus.progress import Progress


def back_up_rounds(
    new_backup: Callable[[], BackUp],
    interval: float,
    wait: Callable[[float], bool],
    on_trouble: Callable[[DurusError], object],
    run: Callable[[Iterator[Progress]], object] = lambda steps: [None for _ in steps],
) -> Iterator[BackedUp]:
    """Make one backup after the other, and yield what was done each time something was new.

    After the first complete one, a file, a disk or a store that refuses something or can't be reached is waited for.

    Args:
        new_backup: Returns the next backup.
        interval: The seconds between the end of a backup and the beginning of the next one.
        wait: Takes the interval, waits that long, and returns whether that was the last backup.
        on_trouble: Takes the error of a backup that is tried again.
        run: Runs the steps of a backup.
    """
    has_run = has_target = False
    while True:
        try:
            backup = new_backup()
            try:
                run(backup.steps(may_begin=not has_target))
            finally:
                has_target = has_target or backup.has_target
            done, has_run = backup.result, True
            if done.is_new or done.added or done.dropped:
                yield done
        except (NothingToBackUpError, LockedError) as error:
            on_trouble(error)
        except FileError as error:
            if not (has_run or has_target) or (isinstance(error, ObjectStoreError) and error.is_permanent):
                raise
            on_trouble(error)
        if wait(interval):
            return
