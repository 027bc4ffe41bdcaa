"""A file that is backed up or followed: whether it has a format and a seal, and its last seal."""

from durus.error import FormatError, NothingToBackUpError
from durus.files.file import ReadableFile, new_name
from durus.files.record_file import is_unfinished_creation
from durus.files.shelf.layout import NAME, SEAL_SIZE, Seal, parse_seal
from durus.files.shelf.sealed import end_of_last_seal
from durus.files.shelf.shelf import EMPTY_FILE, read_header
from durus.text import command


def last_seal(file: ReadableFile) -> Seal:
    """Return the last seal that is at its own offset, though not yet checked. NothingToBackUpError without one."""
    end = end_of_last_seal(file, 0)
    seal = None if end is None else parse_seal(file.read_at(end - SEAL_SIZE, SEAL_SIZE))
    if seal is None:
        raise nothing_yet(file.path)
    return seal


def check_format(file: ReadableFile) -> None:
    """Raise FormatError or DamageError if it is not a SHELF-1 file, NothingToBackUpError if it is not one yet."""
    if is_unfinished_creation(file, EMPTY_FILE):
        raise nothing_yet(file.path)
    try:
        read_header(file)
    except FormatError:
        raise FormatError(
            f"{file.path}: this is not a {NAME} file, and only {NAME} files have the seals that a backup needs; "
            f"{command('convert', file.path, new_name(file.path))} converts a database in another format"
        ) from None


def nothing_yet(path: str) -> NothingToBackUpError:
    return NothingToBackUpError(
        f"{path}: the file has no seal yet, so there is nothing to back up; a commit by this version of Durus seals it"
    )
