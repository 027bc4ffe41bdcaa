"""The note beside a replica, which says what the replica may contain. Statements REPL-2 to REPL-4.

Bytes go in, values come out; nothing here reads or writes a file.
"""

from collections.abc import Mapping
from typing import NamedTuple

from durus.backups.checked_json import pack_checked, parse_checked
from durus.error import ReplicaError
from durus.files.shelf.layout import Seal, parse_seal_text

FORMAT = "durus-replica-1"


class Note(NamedTuple):
    """What is known of a replica, before its next change."""

    source: str
    """The name of what it follows."""
    seal: Seal | None
    """The seal in which it ends, durably; None if there is no file yet."""
    next: Seal
    """The seal in which it will end after the change that is in progress, or was."""

    def explains(self, seal: Seal) -> bool:
        """Return whether a copy that was interrupted can have ended in this seal. [REPL-4]"""
        if seal in (self.seal, self.next):
            return True
        start = 0 if self.seal is None else self.seal.end
        return start < seal.end < self.next.end and seal.time <= self.next.time


def pack_note(note: Note) -> bytes:
    """Return the bytes of a note."""
    seal = None if note.seal is None else str(note.seal)
    return pack_checked({"format": FORMAT, "source": note.source, "seal": seal, "next": str(note.next)})


def parse_note(data: bytes, path: str) -> Note:
    """Return the note in the file `path`. ReplicaError if it is not one."""
    try:
        values = parse_checked(data)
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        source, seal, following = values.get("source"), values.get("seal"), _seal(values.get("next"))
        if not isinstance(source, str) or following is None:
            raise ValueError("it lacks the source, or a seal")
        return Note(source, None if seal is None else _seal(seal), following)
    except ValueError as error:
        raise ReplicaError(
            f"{path}: this is not the note of a replica: {error}; if the file beside it is a replica, remove both, "
            "and follow again to recreate them"
        ) from error


def _seal(text: object) -> Seal | None:
    return parse_seal_text(text) if isinstance(text, str) else None
