"""Makes a database from exported JSON lines. Statements EXP-30 to EXP-32.

The records are kept in a temporary file until all lines are read, because a SHELF-1 file begins with the length of its
content.
"""

import base64
import binascii
import json
import os
from array import array
from collections.abc import Iterator
from typing import BinaryIO

from durus.error import FormatError, RecordError
from durus.file_storage import FileStorage, utc_now
from durus.files.file import File, FileSystem, OperatingSystem, Path, os_errors_as
from durus.files.packer import MAX_PACKABLE_OIDS
from durus.files.publishing import publishing
from durus.files.spool import Spool
from durus.oid import format_oid, oid_from_int
from durus.progress import STEP_RECORDS, Progress
from durus.records.plain_writer import Json, write_plain
from durus.records.record import join_refs, pack_record, refs_of
from durus.tools.export_lines import HEADER

_DATA_KEYS = {"oid", "class", "data", "refs", "problem"}


class Import:
    """Makes the file `new_path` from the JSON lines in the file `path`; steps() does the work."""

    def __init__(self, path: Path, new_path: Path, file_system: FileSystem | None = None) -> None:
        self._path = os.fsdecode(path)
        self._new_path = os.path.realpath(os.fsdecode(new_path))
        self._file_system = file_system or OperatingSystem()
        self._line = 0
        self._oids = array("Q")
        self._sizes = array("Q")
        self._known = bytearray()
        """For each oid a byte: 1 if a line has it, and 2 if a line refers to it."""
        self._finished = False

    @property
    def objects(self) -> int:
        """How many objects were imported."""
        return len(self._oids)

    def steps(self) -> Iterator[Progress]:
        """Import, one step at a time. The new file gets its name in the last step. [EXP-32]

        FormatError for a line that an export would not write, with its number. [EXP-31]
        """
        with (
            publishing(self._new_path, self._file_system) as part_path,
            self._open_lines() as lines,
            Spool(self._new_path) as spool,
        ):
            yield from self._read(lines, spool)
            self._check_whole(spool)
            part = self._file_system.open(part_path, "private")
            try:
                self._take_permissions(part)
                new_file = FileStorage.file_format.new_file(part, utc_now())
                highest = max(self._oids)
                yield from new_file.write_base(self._records(spool), self.objects, sum(self._sizes), highest)
                part.sync()
            finally:
                part.close()

    def _take_permissions(self, part: File) -> None:
        like = self._file_system.open(os.path.realpath(self._path), "read")
        try:
            part.copy_permissions(like)
        finally:
            like.close()

    def _open_lines(self) -> BinaryIO:
        with os_errors_as("open the file", self._path):
            return open(self._path, "rb")

    def _read(self, lines: BinaryIO, spool: Spool) -> Iterator[Progress]:
        for self._line, text in enumerate(lines, 1):
            if self._finished:
                raise self._error("a line after the last one, which has the number of objects")
            found = self._object(text)
            if self._line == 1:
                if found != json.loads(HEADER):
                    raise self._error(f"the first line must be {HEADER}")
            elif "objects" in found:
                self._end(found)
            else:
                try:
                    record = self._record(found)
                except RecordError as error:
                    raise self._error(str(error)) from error
                spool.write(record)
            if self._line % STEP_RECORDS == 0:
                yield Progress("read", self._line, None)
        if not self._finished:
            raise self._error('the file ends before its last line, {"objects": number}: it is not complete')

    def _object(self, text: bytes) -> dict[str, Json]:
        try:
            found = _DECODER.decode(str(text, "utf-8", "surrogatepass"))
        except RecursionError:
            raise self._error("its values are nested too deep") from None
        except ValueError as error:
            raise self._error(f"a JSON object is expected: {error}") from error
        if not isinstance(found, dict):
            raise self._error("a JSON object is expected")
        return found

    def _end(self, found: dict[str, Json]) -> None:
        if len(found) != 1 or found["objects"] != self.objects:
            raise self._error(f'{{"objects": {self.objects}}} is expected after that many objects')
        self._finished = True

    def _record(self, found: dict[str, Json]) -> bytes:
        number = found.get("oid")
        if type(number) is not int or not 0 <= number < MAX_PACKABLE_OIDS:
            raise RecordError(f'"oid" must be a number from 0 to {MAX_PACKABLE_OIDS - 1}, not {number!r:.60}')
        if self._note(number, 1) & 1:
            raise RecordError(f"oid {number} has a line already")
        oid = oid_from_int(number)
        if found.keys() == {"oid", "class", "state"}:
            data, refs = write_plain(found["class"], found["state"])
        elif found.keys() == _DATA_KEYS:
            data, refs = _stored(found)
        else:
            names = ", ".join(sorted(found))
            raise RecordError(f"the keys oid, class and state are expected, not {names:.100}")
        for ref in refs:
            self._note(int.from_bytes(ref, "big"), 2)
        record = pack_record(oid, data, join_refs(oid, refs))
        self._oids.append(number)
        self._sizes.append(len(record))
        return record

    def _note(self, number: int, bit: int) -> int:
        """Note that a line has an oid, or refers to it; return what was noted before."""
        if number >= MAX_PACKABLE_OIDS:
            raise RecordError(f"oid {number} is too high for a file")
        known = self._known
        if number >= len(known):
            try:
                known.extend(bytes(max(number + 1, 2 * len(known), 1024) - len(known)))
            except MemoryError:
                raise RecordError(f"oid {number} is too high for the memory of this machine") from None
        before = known[number]
        known[number] = before | bit
        return before

    def _check_whole(self, spool: Spool) -> None:
        """Check that there is a root, and that no reference leads to nothing. [EXP-31]"""
        if not self._known[:1] or not self._known[0] & 1:
            raise FormatError(f"{self._path}: no line has oid 0, the root, so nothing is imported")
        missing = self._known.find(2)
        if missing < 0:
            return
        wanted = oid_from_int(missing)
        for oid, record in self._records(spool):
            if wanted in refs_of(record):
                raise FormatError(
                    f"{self._path}: the object {format_oid(oid)} refers to oid {missing}, which no line has, so "
                    "nothing is imported; export all objects, without --class"
                )

    def _records(self, spool: Spool) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for all, in the order of the lines."""
        spool.rewind()
        for number, size in zip(self._oids, self._sizes, strict=True):
            yield oid_from_int(number), spool.read(size)

    def _error(self, problem: str) -> FormatError:
        return FormatError(f"{self._path}, line {self._line}: {problem}; nothing is imported")


def _refuse_constant(name: str) -> Json:
    raise ValueError(f'{name} is not JSON: {{"$float": ...}} has it')


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _stored(found: dict[str, Json]) -> tuple[bytes, set[bytes]]:
    """Return data and references of an object that was exported as it is stored. [EXP-10]"""
    text, numbers = found["data"], found["refs"]
    if not isinstance(text, str) or not isinstance(numbers, list):
        raise RecordError('"data" must be base64, and "refs" a list of oids')
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise RecordError(f'"data" must be base64: {error}') from error
    if not data or any(type(each) is not int or not 0 <= each < MAX_PACKABLE_OIDS for each in numbers):
        raise RecordError('"data" must have bytes, and "refs" must be a list of oids')
    return data, {oid_from_int(each) for each in numbers}
