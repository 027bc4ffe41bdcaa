"""Where a file's sound part ends, and what may be cut off behind it.

Everything that decides whether damage is an unfinished end or a loss lives here; nothing here
writes. Statements SHELF-24 to SHELF-27.
"""

from durus.error import DamageError, UnsoundTailError
from durus.file import File
from durus.shelf.layout import find_seals
from durus.shelf.scan import CHUNK_SIZE, Transaction, Unsound

_OVERLAP = 256


def explain(file: File, unsound: Unsound, before: Transaction | None) -> DamageError:
    """Return the error that an unsound transaction is: an UnsoundTailError where the file may be cut.

    `before` is the transaction in front of it, if there is one behind the offset map.
    """
    size = file.size()
    start = unsound.offset
    interrupted_4_3 = before is not None and before.end - before.offset == 8 and before.seal is None
    at_end = unsound.end >= size
    if interrupted_4_3 and before is not None:
        # Durus 4.3 writes a length of 0 first and the true one last. [SHELF-24]
        start = before.offset
        at_end = True
    later = [end for end in seals_behind(file, start, size) if end < size]
    if not at_end or later or unsound.only_a_seal:
        proof = f", and a sound seal behind it ends at byte {later[0]}" if later else ""
        return DamageError(
            file.path,
            unsound.place,
            f"{unsound.problem}{proof}",
            "this is damage ahead of the last transaction, so nothing is cut off: restore the file from a backup, "
            "or look at it with `durus check`",
        )
    return UnsoundTailError(
        file.path,
        start,
        f"the last {size - start} bytes are not a whole, sound transaction: {unsound.problem}",
        "open it with repair=True (durus -c --repair) to cut them off and keep them in a file beside it, or with "
        "readonly=True to see the state before them",
    )


def seals_behind(file: File, start: int, size: int) -> list[int]:
    """Return where the seals end that stand in their own place at or behind `start`. [SHELF-25]"""
    ends: set[int] = set()
    for place in range(start, size, CHUNK_SIZE):
        ends.update(find_seals(file.read_at(place, CHUNK_SIZE + _OVERLAP), place))
    return sorted(ends)
