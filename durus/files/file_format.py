"""The face of a file format: everything that storages, commands and tools know of it.

Each format is a folder that exports one FORMAT. The storage owns the writable File; the reader of a format has a
ReadableFile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from durus.files.file import File, ReadableFile
from durus.files.inspection import Inspection
from durus.files.packer import Packer
from durus.files.record_file import F
from durus.files.writer import NewFile


@dataclass(frozen=True)
class FileFormat(Generic[F]):
    """A format of files to which transactions are appended."""

    name: str
    magic: bytes
    """The first bytes of each file."""
    empty_file: bytes
    """The content of a file without any object."""
    read: Callable[[ReadableFile], F]
    """Reads a file up to the end of its last sound transaction; FormatError or DamageError if that is impossible."""
    packer: Callable[[F, File, str], Packer[F]]
    """Takes the file to pack, a new empty file, and the time of the pack."""
    new_file: Callable[[File, str], NewFile]
    """Takes a new empty file, and the time that is written into it."""
    inspect: Callable[[ReadableFile], Inspection]
    """Takes any file that starts with the magic, however damaged it is."""
