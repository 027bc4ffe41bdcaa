"""`durus log`: the commits of a file, or the states of one object. spec/history.md."""

import argparse
import json
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from durus import __version__
from durus.cli.output import tell
from durus.cli.report import add_json_argument
from durus.cli.values import file_name, name_of_class, oid_of_number, whole_number
from durus.file_storage import FileStorage
from durus.files.moment import seal_time
from durus.oid import format_oid, oid_to_int
from durus.open_file import open_file_storage
from durus.records.contents import class_name_of
from durus.records.record import data_of
from durus.storage import Commit, Storage
from durus.text import listed

_SHOWN_OIDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=file_name, metavar="FILE", help="the file to look at; it may be in use")
    parser.add_argument(
        "oid", nargs="?", type=oid_of_number, metavar="OID", help="show each state of the object with this oid"
    )
    parser.add_argument("--since", metavar="TIME", help="leave out commits before this time (ISO 8601, UTC)")
    parser.add_argument("--until", metavar="TIME", help="leave out commits after this time")
    parser.add_argument(
        "--class",
        dest="class_name",
        type=name_of_class,
        metavar="NAME",
        help="only commits that changed objects of this class",
    )
    parser.add_argument("--last", type=whole_number(1), metavar="N", help="show only the last N")
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    oid: bytes | None = options.oid
    since = None if options.since is None else seal_time(options.since)
    until = None if options.until is None else seal_time(options.until)
    storage = open_file_storage(options.file, readonly=True)
    found: Iterator[_Commit | _State]
    try:
        if oid is None:
            found = _commits(storage, since, until, options.class_name)
        else:
            found = _states(storage, oid, since, until, options.class_name)
        chosen: Iterable[_Commit | _State] = found if options.last is None else deque(found, options.last)
        if options.json:
            list_name = "commits" if oid is None else "states"
            shown = {
                "durus": __version__,
                "file": options.file,
                "format": FileStorage.file_format.name,
                "commits": None,
                "states": None,
            }
            tell(json.dumps({**shown, list_name: [each.as_json() for each in chosen]}))
        else:
            is_empty = True
            for each in chosen:
                tell(str(each))
                is_empty = False
            if is_empty:
                tell(f"durus: {options.file}: no {'commit' if oid is None else 'state'} fits", file=sys.stderr)
    finally:
        storage.close()
    return 0


class _Commit(NamedTuple):
    """A commit, and how many objects of each class it has stored."""

    commit: Commit
    classes: Counter[str]

    def __str__(self) -> str:
        return f"{_heading(self.commit)}  {_shown(self.commit, self.classes)}"

    def as_json(self) -> dict[str, object]:
        return {
            "number": self.commit.number,
            "time": self.commit.time,
            "offset": self.commit.offset,
            "size": self.commit.size,
            "classes": dict(self.classes),
            "oids": [oid_to_int(oid) for oid in self.commit.oids] if self.commit.number else None,
        }


class _State(NamedTuple):
    """A state of the object, and the commit that has stored it."""

    commit: Commit
    class_name: str
    size: int

    def __str__(self) -> str:
        return f"{_heading(self.commit)}  {self.class_name}, {self.size} bytes"

    def as_json(self) -> dict[str, object]:
        return {
            "number": self.commit.number,
            "time": self.commit.time,
            "class": self.class_name,
            "size": self.size,
        }


def _states(
    storage: Storage, oid: bytes, since: str | None, until: str | None, class_name: str | None
) -> Iterator[_State]:
    for commit, record in storage.records_of(oid):
        name = class_name_of(data_of(record))
        if _is_between(commit, since, until) and class_name in (None, name):
            yield _State(commit, name, len(record))


def _commits(storage: Storage, since: str | None, until: str | None, class_name: str | None) -> Iterator[_Commit]:
    for commit in storage.commits():
        if not _is_between(commit, since, until):
            continue
        classes = Counter(class_name_of(data_of(record)) for _, record in storage.records_in(commit))
        if class_name is None or class_name in classes:
            yield _Commit(commit, classes)


def _is_between(commit: Commit, since: str | None, until: str | None) -> bool:
    """Return whether a commit was made in the requested time; one without a time is later than every time. [HIST-4]"""
    if commit.time is None:
        return until is None
    return (since is None or since <= commit.time) and (until is None or commit.time <= until)


def _heading(commit: Commit) -> str:
    return f"{commit.number:>6}  {commit.time or '(not sealed yet)':<27}"


def _shown(commit: Commit, classes: Counter[str]) -> str:
    names = ", ".join(
        f"{count} {name}" for name, count in sorted(classes.items(), key=lambda pair: (-pair[1], pair[0]))
    )
    shown = listed(commit.oids, _SHOWN_OIDS, format_oid)
    return f"{commit.size} bytes: {names}" + (f"; oid {shown}" if shown else "; what the last pack has kept")
