"""Where the sound part of a file ends, and what may be cut off after it.

Everything that decides whether damage is an incomplete tail or a loss lives here; nothing here
writes. Statements SHELF-24 to SHELF-27.
"""

from collections.abc import Iterator

from durus.error import DamageError
from durus.files.file import ReadableFile
from durus.files.forward_reader import CHUNK_SIZE, FIRST_CHUNK_SIZE, Unsound, unsound_tail
from durus.files.shelf.layout import SEAL_SIZE, U64, find_seals
from durus.files.shelf.scan import Transaction, scan_transactions
from durus.text import command


def if_damaged(path: str) -> str:
    """Return what helps if the file with this path is damaged before its last transaction."""
    return (
        "this is damage before the last transaction, so nothing is cut off: restore the file from a backup, or look "
        f"at it with {command('check', path)}"
    )


def explain(file: ReadableFile, unsound: Unsound, before: Transaction | None) -> DamageError:
    """Return the error for an unsound transaction: an UnsoundTailError if the file may be truncated.

    `before` is the transaction before it, if there is one after the offset map.
    """
    size = file.size()
    start = unsound.start
    is_interrupted_4_3 = before is not None and before.end - before.start == U64.size
    if before is not None and is_interrupted_4_3:
        # Durus 4.3 writes a length of 0 first and the true one last. [SHELF-24]
        start = before.start
    is_followed_by_seal = any(end < size for end in seals_after(file, start, size))
    if unsound.is_seal_only or is_followed_by_seal or (not is_interrupted_4_3 and _is_followed(file, unsound, size)):
        return DamageError(
            file.path,
            unsound.fault_offset,
            unsound.problem,
            if_damaged,
        )
    return unsound_tail(file.path, start, size, unsound.problem)


def _is_followed(file: ReadableFile, unsound: Unsound, size: int) -> bool:
    """Return whether there is a transaction with objects where an unsound one claims to end. [SHELF-24]"""
    try:
        return any(each.end - each.start > U64.size for each in scan_transactions(file, unsound.end, size, 0))
    except Unsound as following:
        return following.is_checksum_mismatch


def seals_after(file: ReadableFile, start: int, size: int) -> Iterator[int]:
    """Yield the ends of the seals that are at their own offset, at or after `start`. [SHELF-25]

    A damaged file can have very many, and most callers need only the first one, so it begins with short reads.
    """
    step = FIRST_CHUNK_SIZE
    while start < size:
        for seal in find_seals(file.read_at(start, step + SEAL_SIZE), start):
            if seal < start + step:  # otherwise it would be found again
                yield seal + SEAL_SIZE
        start += step
        step = min(2 * step, CHUNK_SIZE)
