"""Read sealed bytes once, check them, and pass them on. Statements BACKUP-11, BACKUP-32, BACKUP-40."""

from collections.abc import Callable, Generator
from hashlib import sha256
from typing import NamedTuple, TypeVar

from durus.backups.manifest import Generation
from durus.backups.target import MissingSegmentError, Target, damaged
from durus.error import DamageError
from durus.files.file import File, ReadableFile
from durus.files.shelf.layout import Seal
from durus.files.shelf.sealed import SealedBytes, read_sealed, sound_transactions
from durus.progress import Progress

T = TypeVar("T")
Write = Callable[[bytes], object]
"""Takes the next bytes of a file."""

_STEP_BYTES = 1 << 20


class Copied(NamedTuple):
    """What was read."""

    sealed: SealedBytes
    sha256: str


def copy_sealed(file: ReadableFile, start: int, end: int, checksum: int, write: Write) -> Generator[int, None, Copied]:
    """Read bytes of a SHELF-1 file, from 0 or the end of a seal to the end of a seal, and pass all of them to write().

    Yields the offset that it has reached. Raises UnsoundTailError or DamageError if the bytes are not sound; some of
    them were already written then.
    """
    reader = _Tee(file, start, write)
    sealed = yield from read_sealed(file, reader, start, end, checksum)
    return Copied(sealed, reader.sha256())


def check_segment(target: Target, generation: Generation, index: int, write: Write) -> Generator[int, None, None]:
    """Read a segment of a generation, and pass its bytes to write(). DamageError if it has changed since written."""
    segment = generation.segments[index]
    view = target.open_segment(segment)
    try:
        copied = yield from copy_sealed(view, segment.start, segment.end, generation.checksum_at(index), write)
    except DamageError as error:
        raise damaged(view.path, error.offset - segment.start, error.problem) from error
    finally:
        view.close()
    if copied.sha256 != segment.sha256:
        raise damaged(view.path, 0, f"its SHA-256 is {copied.sha256}, but the manifest says {segment.sha256}")
    if copied.sealed.last_seal != segment.seal:
        raise damaged(view.path, 0, f"its last seal is {copied.sealed.last_seal}, but the manifest says {segment.seal}")


def copy_generation(
    target: Target, generation: Generation, start: int, end: int, write: Write
) -> Generator[int, None, None]:
    """Pass the bytes of a generation from `start` to `end` to write(), and yield the offsets that it has reached.

    The segments that contain any of them are read to their ends, and checked. [BACKUP-32] DamageError if one has
    changed since it was written; some bytes were written then.
    """
    while start < end:
        index = next(n for n, segment in enumerate(generation.segments) if segment.end > start)
        window = _Window(write, generation.segments[index].start, start, end)
        try:
            yield from check_segment(target, generation, index, window.write)
        except MissingSegmentError:
            # It may be part of a larger one now. What was written is kept, or a long copy might never end.
            before, generation = generation, _same_generation(target, generation)
            if before == generation:
                raise
        else:
            start = generation.segments[index].end


def _same_generation(target: Target, generation: Generation) -> Generation:
    """Return a generation as the manifest has it now; if it is gone, return it unchanged."""
    found = [each for each in target.read_manifest().generations if each.number == generation.number]
    return found[0] if found and found[0].first_seal == generation.first_seal else generation


class _Window:
    """Takes consecutive bytes of a file, and passes on those from `first` to `end`."""

    def __init__(self, write: Write, offset: int, first: int, end: int) -> None:
        self._write = write
        self._offset = offset
        self._first = first
        self._end = end

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        piece = data[max(self._first - self._offset, 0) : max(self._end - self._offset, 0)]
        self._offset += len(data)
        if piece:
            self._write(piece)


def check_copy(file: File, seal: Seal) -> None:
    """Read a whole file that was written; DamageError if it is not sound or does not end in the seal. [BACKUP-32]"""
    last: Seal | None = None
    for each in sound_transactions(file, 0, 0):
        last = each.seal
    if last != seal or file.size() != seal.end:
        problem = f"the file that was written ends in the seal {last}, not in {seal}"
        raise DamageError(file.path, file.size(), problem, "it is removed; try again, or restore another moment")


def in_steps(work: Generator[int, None, T], start: int, end: int) -> Generator[Progress, None, T]:
    """Run work on the bytes from `start` to `end`, which yields offsets, and yield its progress from time to time."""
    told = start
    while True:
        try:
            done = next(work)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if done - told >= _STEP_BYTES:
            told = done
            yield Progress("copy", done - start, end - start)


class _Tee:
    """Reads a file forward, and passes on what it reads."""

    def __init__(self, file: ReadableFile, start: int, write: Callable[[bytes], object]) -> None:
        self.path = file.path
        self._file = file
        self._next = start
        self._write = write
        self._hash = sha256()

    def size(self) -> int:
        return self._file.size()

    def read_at(self, offset: int, size: int) -> bytes:
        data = self._file.read_at(offset, size)
        if offset != self._next:
            raise ValueError(f"bytes are read at {offset}, not at {self._next}: each byte must be read once")
        self._next += len(data)
        self._hash.update(data)
        self._write(data)
        return data

    def close(self) -> None:
        self._file.close()

    def sha256(self) -> str:
        return self._hash.hexdigest()
