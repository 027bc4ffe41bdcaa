"""A small file of two lines: JSON in ASCII, and the SHA-256 of that line. Statements BACKUP-4, REPL-2."""

import json
from hashlib import sha256


def pack_checked(values: object) -> bytes:
    """Return the bytes of the file."""
    line = json.dumps(values).encode("ascii") + b"\n"
    return line + _digest(line)


def parse_checked(data: bytes) -> object:
    """Return the values. ValueError that says what is wrong if the lines do not fit, or are not JSON."""
    line, _, digest = data.partition(b"\n")
    if _digest(line + b"\n") != digest:
        raise ValueError("its first line does not have the SHA-256 that its second line says")
    try:
        values: object = json.loads(line)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return values


def _digest(line: bytes) -> bytes:
    return sha256(line).hexdigest().encode("ascii") + b"\n"
