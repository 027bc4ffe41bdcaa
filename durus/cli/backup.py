"""`durus backup`: add what is new in a file to a backup, or verify a backup. spec/backup.md."""

import argparse

from durus.backups.back_up import BackedUp, BackUp
from durus.backups.following import back_up_rounds
from durus.backups.verify import Verification
from durus.cli.options import UsageError
from durus.cli.output import tell
from durus.cli.progress import show_progress
from durus.cli.signals import end_on_signals
from durus.cli.troubles import Troubles, pause, say_waiting
from durus.cli.values import backup_target, file_name, seconds, whole_number
from durus.sharing.protocol2 import MAX_SECONDS

_EVERY = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", type=file_name, metavar="FILE", help="the file to back up; it may be in use")
    parser.add_argument(
        "target",
        type=backup_target,
        metavar="TARGET",
        help="the folder of the backup, created if it does not exist, or s3://, gs:// or az://BUCKET/PREFIX",
    )
    parser.add_argument(
        "--keep", type=whole_number(1), metavar="N", help="keep the newest N generations, and drop older ones"
    )
    parser.add_argument(
        "--follow", action="store_true", help="back up again and again, until Ctrl-C or SIGTERM; see --every"
    )
    parser.add_argument(
        "--every",
        type=seconds(MAX_SECONDS),
        metavar="SECONDS",
        help=f"the time between two backups with --follow ({_EVERY})",
    )
    parser.add_argument("--verify", action="store_true", help="check the whole backup TARGET, without a FILE")


def run(options: argparse.Namespace) -> int:
    if options.verify:
        if options.file is not None or options.follow or options.keep is not None or options.every is not None:
            raise UsageError("--verify takes a TARGET and nothing else")
        return _verify(options.target)
    if options.file is None:
        raise UsageError("a FILE and a TARGET are needed, or --verify and a TARGET")
    if options.follow:
        return _follow(options.file, options.target, options.keep, options.every or _EVERY)
    if options.every is not None:
        raise UsageError("--every goes with --follow")
    backup = BackUp(options.file, options.target, options.keep)
    show_progress(backup.steps())
    _tell(options.file, options.target, backup.result)
    return 0


def _follow(path: str, target: str, keep: int | None, every: float) -> int:
    end_on_signals()
    tell(f"{path}: backing up to {target} {'every second' if every == 1 else f'every {every:g} seconds'}", flush=True)
    troubles = Troubles(say_waiting)
    for done in back_up_rounds(lambda: BackUp(path, target, keep), every, pause, troubles.note, show_progress):
        troubles.end()
        _tell(path, target, done)
    return 0


def _tell(path: str, target: str, done: BackedUp) -> None:
    generation = f"generation {done.generation} of {target}"
    if done.is_new:
        line = f"{done.size} bytes in {generation}, which is new, up to the commit of {done.time}"
    elif done.added:
        line = f"{done.added} bytes added to {generation}, up to the commit of {done.time}"
    else:
        line = f"nothing is new since the commit of {done.time}, which is in {generation}"
    if done.unsealed:
        line += f"; {done.unsealed} bytes at the end of the file have no seal yet and are not in it"
    if done.dropped:
        line += f"; generations dropped: {done.dropped}"
    tell(f"{path}: {line}", flush=True)


def _verify(target: str) -> int:
    verification = Verification(target)
    show_progress(verification.steps())
    faults = 0
    for each in verification.result:
        for problem in each.problems:
            tell(f"{target}: generation {each.number}: {problem}")
        faults += len(each.problems)
        state = "damaged" if each.problems else "sound"
        tell(f"{target}: generation {each.number}: {state}: {each.size} bytes, from {each.first} to {each.last}")
    if not verification.result:
        tell(f"{target}: the backup holds nothing yet")
    return 1 if faults else 0
