"""What an inspection of a whole file finds, whatever its format: faults, figures, and records.

Nothing is written, no lock is taken, and what others append meanwhile is ignored.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from durus.error import DamageError, DurusError, FormatError, UnsoundTailError
from durus.files.file import ReadableFile
from durus.files.forward_reader import CHUNK_SIZE
from durus.files.read_ahead import ReadAhead
from durus.files.record_file import F, is_unfinished_creation
from durus.files.snapshot import FileSnapshot
from durus.oid import ROOT_OID, format_oid
from durus.records.contents import read_contents
from durus.records.pickle_machine import Name
from durus.records.plain import check_plain
from durus.records.record import split_oids, unpack_record
from durus.records.source_names import may_be_there
from durus.text import command, listed, printable

_NAMED_REFS = 5
_ZEROS = (
    "zeros, which no commit writes: a crash or a disk has left them, and if commits were written here, they are lost; "
    "compare with a backup; a pack removes the zeros"
)
_UNFINISHED = "the file was created, but nothing was stored yet; opening it for writing makes it a database"

Sealed = Literal["all", "part", "none"]
"""How far the checksums of a file reach."""

P = TypeVar("P", int, None)


@dataclass(frozen=True)
class Finding:
    """A fault, or with is_fault=False something worth knowing."""

    offset: int | None
    """The offset in the file, None if another program manages its bytes."""
    oid: bytes | None
    problem: str
    is_fault: bool = True

    def __str__(self) -> str:
        where = [] if self.offset is None else [f"byte {self.offset}"]
        where += [] if self.oid is None else [f"oid {format_oid(self.oid)}"]
        return printable(f"{'' if self.is_fault else 'note: '}{', '.join(where) or 'the file'}: {self.problem}")


@dataclass(frozen=True)
class Figures:
    """What a check has counted."""

    objects: int
    transactions: int | None
    """How many transactions with objects there are after the packed part, None in a format that does not keep them."""
    sealed: Sealed | None
    """None in a format without checksums."""
    remark: str
    """A remark on the checksums."""

    def __str__(self) -> str:
        transactions = "" if self.transactions is None else f"{self.transactions} transactions, "
        return f"{transactions}{self.objects} objects, {self.remark}"


@dataclass(frozen=True)
class Heading:
    """Facts about a file as a whole; None if the format does not have them. Sizes are in bytes."""

    format: str
    size: int
    packed_size: int | None = None
    entries_size: int | None = None
    """The size of all object entries, including superseded ones."""
    transactions: int | None = None
    """How many transactions with objects there are after the packed part."""
    unsealed_transactions: int | None = None
    """How many of them have no seal of their own."""
    sealed: Sealed | None = None
    first_seal: str | None = None
    last_seal: str | None = None
    """When they were written."""
    tail: str | None = None
    """What is wrong with the end of the file, None if it is complete."""
    remark: str | None = None
    """A remark on the size."""

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield a name and a text for each line that shows this to people."""
        yield "format", self.format
        packed = "" if self.packed_size is None else f", {self.packed_size} of them packed"
        yield "size", f"{self.size} bytes{packed}{self.remark or ''}"
        if self.transactions is not None:
            unsealed = self.unsealed_transactions
            without = "" if unsealed is None else f", {unsealed} of them without a seal"
            yield "transactions", f"{self.transactions} after the packed part{without}"
        texts = {None: "no, the format has no checksums", "none": "no", "part": "not at its end", "all": "to its end"}
        yield "sealed", texts[self.sealed]
        if self.first_seal is not None and self.last_seal is not None:
            yield "first seal", self.first_seal
            yield "last seal", self.last_seal
        if self.tail is not None:
            yield "tail", f"incomplete: {self.tail}"


class Records(Protocol):
    """The current records of a file."""

    def offsets(self) -> Iterable[tuple[bytes, int]]:
        """Return (oid, file offset) for all; in a format without offsets, each is 0."""

    def walk(self) -> Iterable[tuple[bytes, int]]:
        """Return what offsets() returns, with little memory where the format can do that."""

    def read_entry(self, oid: bytes, offset: int) -> bytes:
        """Return the record of one of these pairs."""

    def read(self, oid: bytes) -> bytes | None:
        """Return the record of `oid`, None if there is none."""


class Inspection:
    """Inspects one file.

    findings() and figures() work for damaged files, too; records and heading() raise what opening the file raises.
    """

    format_name: str
    frame_size: int
    """How many bytes a file needs for each record, in addition to its length."""

    def findings(self) -> Iterator[Finding]:
        """Yield all findings, in the order in which they are found; FormatError if the file has another format."""
        raise NotImplementedError

    def figures(self) -> Figures:
        """Return the figures; they are complete after the last finding."""
        raise NotImplementedError

    def heading(self) -> Heading:
        """Return the facts about the file as a whole."""
        raise NotImplementedError

    @property
    def records(self) -> Records:
        """The records, which are read only on demand."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""
        raise NotImplementedError


class FileInspection(Inspection, Generic[F]):
    """Base of inspections of append-only files."""

    empty_file: bytes
    """The content of a file without any object."""

    def __init__(self, file: ReadableFile) -> None:
        self._live_file = file
        self._records: F | None = None
        self._file = FileSnapshot(file)
        self.size = self._file.size()
        """The size of the file at the beginning; what is appended later is ignored."""
        self._offsets: dict[bytes, int] = {}
        """The offsets of the newest entries, by oid."""
        self._is_complete = True
        """False once a part of the file was unreadable, so that objects may be missing here."""
        self.transactions = 0
        self.objects = 0

    # Implemented by a format

    def _layout_findings(self) -> Iterator[Finding]:
        """Yield all faults except those of records; count transactions, and note offsets of entries."""
        raise NotImplementedError

    def _open(self, file: ReadableFile) -> F:
        raise NotImplementedError

    def _read_entry(self, source: ReadAhead, oid: bytes, offset: int) -> bytes:
        raise NotImplementedError

    # Shared by all formats

    def findings(self) -> Iterator[Finding]:
        if is_unfinished_creation(self._file, self.empty_file):
            yield Finding(self.size, None, _UNFINISHED)
            return
        yield from self._layout_findings()
        self.objects = len(self._offsets)
        if self._offsets and self._is_complete and ROOT_OID not in self._offsets:
            yield Finding(0, ROOT_OID, "there is no root object")
        source = ReadAhead(self._file)
        yield from record_findings(
            sorted(self._offsets.items(), key=lambda pair: pair[1]),
            lambda oid, offset: self._read_entry(source, oid, offset),
            self._offsets.keys() if self._is_complete else None,
            self._file.path,
        )

    def _zeros_findings(self, start: int) -> Iterator[Finding]:
        """Note zeros from `start`, where the last transaction with contents ends, to the end of the file. [CMD-17]"""
        for offset in range(start, self.size, CHUNK_SIZE):
            if self._file.read_at(offset, min(CHUNK_SIZE, self.size - offset)).strip(b"\0"):
                return
        if start < self.size:
            yield Finding(start, None, f"the last {self.size - start} bytes are {_ZEROS}", is_fault=False)

    def _unsound_finding(self, error: DamageError, may_be_repaired: bool = True) -> Finding:
        """Return the finding for an unsound transaction."""
        if not isinstance(error, UnsoundTailError):
            return Finding(error.offset, None, error.problem)
        if self._live_file.size() > self.size:
            problem = "a commit was in progress when the check began; the bytes after this offset were not checked"
            return Finding(error.offset, None, problem, is_fault=False)
        remedy = f"; {self._tail_remedy(error.path)}" if may_be_repaired else ""
        return Finding(error.offset, None, error.problem + remedy)

    def _tail_remedy(self, path: str) -> str:
        return f"{command('shell --repair', path)} cuts off what a crash has left"

    @property
    def records(self) -> F:
        if self._records is None:
            if is_unfinished_creation(self._file, self.empty_file):
                raise FormatError(f"{self._file.path}: {_UNFINISHED}")
            self._records = self._open(self._file)
        return self._records

    def close(self) -> None:
        self._file.close()


def record_findings(
    offsets: Iterable[tuple[bytes, P]],
    read: Callable[[bytes, P], bytes],
    oids: Collection[bytes] | None,
    path: str,
) -> Iterator[Finding]:
    """Yield the faults of the records at these (oid, offset) pairs, which read(oid, offset) returns.

    `oids` are all oids with a record, None if that is unknown. `path` is that of the file, or an address.
    """
    looked_for: set[Name] = set()
    for oid, offset in offsets:
        try:
            _, data, refs = unpack_record(read(oid, offset))
        except DurusError as error:
            yield Finding(offset, oid, error.problem if isinstance(error, DamageError) else str(error))
            continue
        stored = split_oids(refs)
        try:
            contents = read_contents(data)
            check_plain(data)
        except DurusError as error:
            yield Finding(offset, oid, str(error))
        else:
            used = contents.refs - {oid}
            if stored != sorted(used):
                yield Finding(offset, oid, _difference(set(stored), used))
            for name in sorted(contents.names - looked_for):
                looked_for.add(name)
                if not may_be_there(*name):
                    yield Finding(offset, oid, _missing(name, path), is_fault=False)
        for ref in stored:
            if oids is not None and ref not in oids:
                yield Finding(offset, oid, f"it refers to oid {format_oid(ref)}, which has no record")


def _missing(name: Name, path: str) -> str:
    return (
        f"it names {name.module}.{name.qualname}, which this Python does not find, so a stand-in replaces it; "
        f"{command('info --broken', path)} lists all objects that need it"
    )


def _difference(stored: set[bytes], used: set[bytes]) -> str:
    problem = "the references next to its state differ from those in its state"
    if lacking := used - stored:
        problem += f"; they lack {_named(lacking)}"
    if extra := stored - used:
        problem += f"; they have {_named(extra)} in addition"
    if stored == used:
        problem += ", sorted and once each"
    return problem


def _named(oids: set[bytes]) -> str:
    return f"oid {listed(sorted(oids), _NAMED_REFS, format_oid)}"
