"""What a server sends of its file to those that follow it. Statements WIRE2-50 and WIRE2-51."""

from durus.error import ArgumentError
from durus.files.file import ReadableFile
from durus.files.shelf.layout import SEAL_SIZE, Seal, parse_seal, parse_seal_text
from durus.files.shelf.sealed import end_of_last_seal, has_seal


class FilePart:
    """A file up to its last seal, from its beginning or from the end of the seal `after` on."""

    def __init__(self, file: ReadableFile, after: str) -> None:
        """`file` is a view that no later commit changes. ArgumentError if `after` is not a seal, or empty."""
        known = parse_seal_text(after) if after else None
        if after and known is None:
            raise ArgumentError(f"{after!r} is not a seal")
        self._file = file
        last = _last_seal(file)
        self.seal = "" if last is None else str(last)
        self.end = 0 if last is None else last.end
        self.start = known.end if known is not None and known.end <= self.end and has_seal(file, known) else 0

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset, min(size, self.end - offset))

    def close(self) -> None:
        self._file.close()


def _last_seal(file: ReadableFile) -> Seal | None:
    end = end_of_last_seal(file, 0)
    return None if end is None else parse_seal(file.read_at(end - SEAL_SIZE, SEAL_SIZE))
