"""Read sealed bytes once, check them, and pass them on. Statements BACKUP-11, BACKUP-32, BACKUP-40."""

from collections.abc import Callable, Generator
from hashlib import sha256
from typing import NamedTuple, TypeVar

from durus.backups.manifest import Generation
from durus.backups.target import Target, damaged
from durus.error import DamageError
from durus.files.file import ReadableFile
from durus.files.shelf.sealed import SealedBytes, read_sealed
from durus.progress import Progress

T = TypeVar("T")

_STEP_BYTES = 1 << 20


class Copied(NamedTuple):
    """What was read."""

    sealed: SealedBytes
    sha256: str


def copy_sealed(
    file: ReadableFile, start: int, end: int, checksum: int, write: Callable[[bytes], object]
) -> Generator[int, None, Copied]:
    """Read bytes of a SHELF-1 file, from 0 or the end of a seal to the end of a seal, and pass all of them to write().

    Yields the offset that it has reached. Raises UnsoundTailError or DamageError if the bytes are not sound; some of
    them were already written then.
    """
    reader = _Tee(file, start, write)
    sealed = yield from read_sealed(file, reader, start, end, checksum)
    return Copied(sealed, reader.sha256())


def check_segment(
    target: Target, generation: Generation, index: int, write: Callable[[bytes], object]
) -> Generator[int, None, None]:
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
