"""What a check of any kind of file finds, and the part of it that looks at records."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from durus.error import DamageError, DurusError
from durus.oid import format_oid
from durus.records.contents import read_contents
from durus.records.pickle_machine import Name
from durus.records.record import split_oids, unpack_record
from durus.records.source_names import may_be_there
from durus.text import printable

_NAMED_REFS = 5


P = TypeVar("P", int, None)


@dataclass(frozen=True)
class Finding:
    """Something that can't be right, or with is_fault=False that is worth knowing."""

    offset: int | None
    """Where in the file, None in a file whose bytes are another program's matter."""
    oid: bytes | None
    problem: str
    is_fault: bool = True

    def __str__(self) -> str:
        places = [] if self.offset is None else [f"byte {self.offset}"]
        places += [] if self.oid is None else [f"oid {format_oid(self.oid)}"]
        return printable(f"{'' if self.is_fault else 'note: '}{', '.join(places) or 'the file'}: {self.problem}")


def record_findings(
    places: Iterable[tuple[bytes, P]],
    read: Callable[[bytes, P], bytes],
    oids: Collection[bytes] | None,
) -> Iterator[Finding]:
    """Yield what is wrong with the records of these (oid, offset) pairs, each of which read(oid, offset) returns.

    `oids` are all that have a record, None if that is not known.
    """
    looked_for: set[Name] = set()
    for oid, offset in places:
        try:
            _, data, refs = unpack_record(read(oid, offset))
        except DurusError as error:
            yield Finding(offset, oid, error.problem if isinstance(error, DamageError) else str(error))
            continue
        stored = split_oids(refs)
        try:
            contents = read_contents(data)
        except DurusError as error:
            yield Finding(offset, oid, str(error))
        else:
            used = contents.refs - {oid}
            if stored != sorted(used):
                yield Finding(offset, oid, _difference(set(stored), used))
            for name in sorted(contents.names - looked_for):
                looked_for.add(name)
                if not may_be_there(*name):
                    yield Finding(offset, oid, _missing(name), is_fault=False)
        for ref in stored:
            if oids is not None and ref not in oids:
                yield Finding(offset, oid, f"it refers to oid {format_oid(ref)}, which has no record")


def _missing(name: Name) -> str:
    return (
        f"it names {name.module}.{name.qualname}, which is not found by this Python, so a stand-in takes its place; "
        "`durus info --broken` lists all that needs it"
    )


def _difference(stored: set[bytes], used: set[bytes]) -> str:
    problem = "the references beside its state are not those in its state"
    if lacking := used - stored:
        problem += f"; they lack {_named(lacking)}"
    if extra := stored - used:
        problem += f"; they have {_named(extra)} too much"
    if stored == used:
        problem += ", sorted and once each"
    return problem


def _named(oids: set[bytes]) -> str:
    shown = ", ".join(format_oid(oid) for oid in sorted(oids)[:_NAMED_REFS])
    return f"oid {shown}" + (f" and {len(oids) - _NAMED_REFS} more" if len(oids) > _NAMED_REFS else "")
