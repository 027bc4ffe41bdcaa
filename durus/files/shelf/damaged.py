"""A damaged SHELF-1 file that is read as far as it is sound. Statements SALV-13 and SALV-14."""

from collections.abc import Iterator

from durus.error import DamageError
from durus.files.file import ReadableFile
from durus.files.shelf.salvage import DamagedShelf
from durus.files.shelf.shelf import Shelf
from durus.oid import FIRST_RESERVED_OID, format_oid, oid_to_int


class SoundPart(Shelf):
    """The records of a damaged file that are the newest of their objects, and sound. It has no history."""

    def __init__(self, file: ReadableFile, advice: str) -> None:
        """`advice` is what errors say to do. FormatError if nothing in the file is part of a SHELF-1 file."""
        self._advice = advice
        self._damaged = DamagedShelf(file)
        self.raw_file = self.file = self._damaged.file
        self.tail = None
        self._sound: dict[bytes, int] = {}
        """By oid the offset of the newest record of an object, if it is sound."""
        self._unsound: dict[bytes, int] = {}
        """By oid the offset of the newest record of an object, if it is not sound."""
        for entry in map(self._damaged.judged, self._damaged.entries()):
            if entry.oid < FIRST_RESERVED_OID:
                wanted, other = self._sound, self._unsound
                if entry.quality == "doubtful":
                    wanted, other = other, wanted
                wanted[entry.oid] = entry.offset
                other.pop(entry.oid, None)
        self.damage = self._damaged.damage
        self.end = self.file.size()

    @property
    def settled_end(self) -> int:
        return self.end

    def read(self, oid: bytes) -> bytes | None:
        """Return the record of `oid`; DamageError if it is not sound, or may be in bytes that are not. [SALV-14]"""
        offset = self._sound.get(oid)
        if offset is not None:
            return self.read_entry(oid, offset)
        offset = self._unsound.get(oid)
        if offset is not None:
            raise self._error(offset, f"the state of oid {format_oid(oid)} that is here is damaged")
        if not self.damage:
            return None
        start, end, _ = self.damage[0]
        more = f", and in {len(self.damage) - 1} more places" if len(self.damage) > 1 else ""
        raise self._error(
            start, f"oid {format_oid(oid)} is not in what can be read; the file is damaged up to byte {end}{more}"
        )

    def _error(self, offset: int, problem: str) -> DamageError:
        return DamageError(self.file.path, offset, problem, self._advice)

    def offset_of(self, oid: bytes) -> int | None:
        return self._sound.get(oid)

    def read_entry(self, oid: bytes, offset: int) -> bytes:
        return self._damaged.record_at(offset)

    def offsets(self) -> Iterator[tuple[bytes, int]]:
        for offset, oid in sorted((offset, oid) for oid, offset in self._sound.items()):
            yield oid, offset

    walk = offsets

    def holes(self) -> Iterator[int]:
        return iter(())

    @property
    def oid_count(self) -> int:
        return oid_to_int(max(self._sound.keys() | self._unsound.keys(), default=b"")) + 1

    def problems(self) -> list[str]:
        """Return what is damaged, for people."""
        shown = [f"byte {start} to {end}: {problem}" for start, end, problem in self.damage]
        return shown + [
            f"byte {offset}: the newest state of oid {format_oid(oid)}" for oid, offset in sorted(self._unsound.items())
        ]
