"""The manifest of a backup: its generations and their segments. Statements BACKUP-2 to BACKUP-6.

Bytes go in, values come out; nothing here reads or writes a file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from durus.backups.checked_json import pack_checked, parse_checked
from durus.error import DamageError, FormatError
from durus.files.shelf.layout import Seal, parse_seal_text

FORMAT = "durus-backup-1"
SEGMENT_NAME = re.compile(
    r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]{8}(?:-[0-9a-f]{16})?\.segment"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADVICE = "the backup can't be used; keep its folder, and back up to another one"


@dataclass(frozen=True)
class Segment:
    """A run of bytes of a file, from 0 or the end of a seal to the end of another seal."""

    name: str
    """The name of the file that holds the bytes."""
    start: int
    size: int
    sha256: str
    earliest: str
    """The earliest time of a seal in it."""
    seal: Seal
    """Its last seal."""

    @property
    def end(self) -> int:
        """The offset of its end in the file that was backed up."""
        return self.start + self.size


@dataclass(frozen=True)
class Generation:
    """A file from its beginning to the last seal that was backed up."""

    number: int
    first_seal: Seal
    branched_at: int
    """The offset where its history leaves that of an older generation; 0 if it shares no history."""
    segments: tuple[Segment, ...]

    @property
    def last_seal(self) -> Seal:
        return self.segments[-1].seal

    @property
    def size(self) -> int:
        """The number of its bytes."""
        return self.segments[-1].end

    def checksum_at(self, index: int) -> int:
        """Return the running checksum at the start of a segment."""
        return self.segments[index - 1].seal.checksum if index else 0


@dataclass(frozen=True)
class Manifest:
    """Everything that a backup holds."""

    generations: tuple[Generation, ...] = ()
    """The newest generation is the last."""

    def segments(self) -> dict[str, Segment]:
        """Return the segments of all generations, by name."""
        return {segment.name: segment for each in self.generations for segment in each.segments}


def segment_name(first_seal: Seal, start: int, last_seal: Seal) -> str:
    """Return the name of a segment of the file with this first seal. [BACKUP-2]"""
    time = first_seal.time.replace("-", "").replace(":", "")
    return f"{time}-{first_seal.checksum:08x}.{start:016x}-{last_seal.end:016x}-{last_seal.checksum:08x}.segment"


def unique_segment_name(name: str, chance: bytes) -> str:
    """Return the name that this segment has in an object store; `chance` is 8 random bytes. [BACKUP-51]"""
    return f"{name.removesuffix('.segment')}-{chance.hex()}.segment"


def pack_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest. [BACKUP-4]"""
    generations = [
        {
            "number": each.number,
            "first_seal": str(each.first_seal),
            "branched_at": each.branched_at,
            "segments": [
                {
                    "name": segment.name,
                    "start": segment.start,
                    "size": segment.size,
                    "sha256": segment.sha256,
                    "earliest": segment.earliest,
                    "seal": str(segment.seal),
                }
                for segment in each.segments
            ],
        }
        for each in manifest.generations
    ]
    return pack_checked({"format": FORMAT, "generations": generations})


def parse_manifest(data: bytes, path: str) -> Manifest:
    """Return the manifest in `data`. DamageError if it is damaged, FormatError if it has another format. [BACKUP-5]"""
    try:
        values = parse_checked(data)
        if (found := _text(values, "format")) != FORMAT:
            raise FormatError(f"{path}: the format is {found!r}; this version of Durus reads {FORMAT!r}")
        generations = tuple(_generation(each) for each in _list(values, "generations"))
    except FormatError:
        raise
    except ValueError as error:
        raise DamageError(path, 0, f"it is not a manifest: {error}", _ADVICE) from error
    numbers = [each.number for each in generations]
    if numbers != sorted(set(numbers)):
        raise DamageError(path, 0, f"it is not a manifest: its generations have the numbers {numbers}", _ADVICE)
    return Manifest(generations)


class _Malformed(ValueError):
    """The JSON is not that of a manifest."""


def _generation(values: object) -> Generation:
    segments = tuple(_segment(each) for each in _list(values, "segments"))
    end = 0
    for segment in segments:
        if segment.start != end or segment.seal.end != segment.end:
            raise _Malformed(f"the segment {segment.name} does not follow the one before, or does not end in its seal")
        end = segment.end
    branched_at = _number(values, "branched_at")
    first_seal = _seal(values, "first_seal")
    if not segments or first_seal.end > end or branched_at > end:
        raise _Malformed("a generation lacks segments")
    return Generation(_number(values, "number"), first_seal, branched_at, segments)


def _segment(values: object) -> Segment:
    name, digest = _text(values, "name"), _text(values, "sha256")
    if not SEGMENT_NAME.fullmatch(name) or not _SHA256.fullmatch(digest):
        raise _Malformed(f"a segment has the name {name!r} and the SHA-256 {digest!r}")
    start, size = _number(values, "start"), _number(values, "size")
    return Segment(name, start, size, digest, _text(values, "earliest"), _seal(values, "seal"))


def _value(values: object, key: str) -> object:
    if not isinstance(values, Mapping) or key not in values:
        raise _Malformed(f"{key!r} is missing")
    value: object = values[key]
    return value


def _list(values: object, key: str) -> list[object]:
    value = _value(values, key)
    if not isinstance(value, list):
        raise _Malformed(f"{key!r} is not a list")
    return value


def _text(values: object, key: str) -> str:
    value = _value(values, key)
    if not isinstance(value, str):
        raise _Malformed(f"{key!r} is not a text")
    return value


def _number(values: object, key: str) -> int:
    value = _value(values, key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _Malformed(f"{key!r} is not a number")
    return value


def _seal(values: object, key: str) -> Seal:
    text = _text(values, key)
    seal = parse_seal_text(text)
    if seal is None:
        raise _Malformed(f"{key!r} is {text!r}, which is not a seal")
    return seal
