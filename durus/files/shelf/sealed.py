"""The sealed part of a SHELF-1 file: find its end, and read it once, byte by byte, with its checksums.

Everything that a backup knows about the format is here. Statements SHELF-13 to SHELF-16, SHELF-24.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple
from zlib import crc32

from durus.error import DamageError
from durus.files.file import ReadableFile
from durus.files.forward_reader import CHUNK_SIZE, Unsound
from durus.files.shelf import recover
from durus.files.shelf.layout import SEAL_SIZE, Seal, find_seals, parse_seal
from durus.files.shelf.scan import Transaction, scan_transactions
from durus.files.shelf.shelf import checksum_of, read_header

_FIRST_SEARCH = 1 << 16


class SealedBytes(NamedTuple):
    """The seals in the bytes that were read, which end with a seal."""

    first_seal: Seal
    last_seal: Seal
    earliest: str
    """The earliest time of a seal among them; it need not be the first seal, because the writer's clock may go back."""


def has_seal(file: ReadableFile, seal: Seal) -> bool:
    """Return whether a seal is in the file, at its offset.

    Its checksum covers everything before it, so two files that have it are the same up to its end.
    """
    return parse_seal(file.read_at(seal.offset, SEAL_SIZE)) == seal


def end_of_last_seal(file: ReadableFile, start: int) -> int | None:
    """Return the end of the last seal that is at its own offset, at or after `start`; None if there is none."""
    stop = file.size()
    step = _FIRST_SEARCH
    while stop > start:
        first = max(start, stop - step)
        data = file.read_at(first, stop - first + SEAL_SIZE - 1)
        seals = list(find_seals(data, first))
        if seals:
            return seals[-1] + SEAL_SIZE
        stop = first
        step = min(2 * step, CHUNK_SIZE)
    return None


def sound_transactions(file: ReadableFile, start: int, checksum: int) -> Iterator[Transaction]:
    """Yield the transactions of a whole file from `start` on, where the running checksum is `checksum`.

    A `start` of 0 stands for the first transaction after the packed part, which is read for its checksum.
    Raises UnsoundTailError or DamageError at the first transaction that is not sound.
    """
    if not start:
        start = read_header(file).end
        checksum = checksum_of(file, start)
    yield from explained(scan_transactions(file, start, file.size(), checksum), file)


def read_sealed(
    file: ReadableFile, reader: ReadableFile, start: int, end: int, checksum: int
) -> Generator[int, None, SealedBytes]:
    """Read the bytes from `start` to `end` through `reader`, each byte once and in order; yield the offsets reached.

    At `start`, which is 0 or the end of a seal, the running checksum is `checksum`; a seal ends at `end`. `file` is
    the same file, and any part of it may be read. UnsoundTailError or DamageError if the bytes are not sound.
    """
    first = start
    if not start:
        first = read_header(file).end
        if first > end:
            raise DamageError(file.path, 0, f"the packed part ends at byte {first}, after a seal", recover.if_damaged)
        for offset in range(0, first, CHUNK_SIZE):
            checksum = crc32(reader.read_at(offset, min(CHUNK_SIZE, first - offset)), checksum)
            yield offset
    first_seal = last_seal = None
    earliest = ""
    for transaction in explained(scan_transactions(reader, first, end, checksum), file):
        last_seal = transaction.seal
        if last_seal is not None:
            first_seal = first_seal or last_seal
            earliest = min(earliest or last_seal.time, last_seal.time)
        yield transaction.end
    if first_seal is None or last_seal is None:
        problem = "these bytes look like a seal, but are not a seal of the transactions before them"
        raise DamageError(file.path, end - SEAL_SIZE, problem, recover.if_damaged)
    return SealedBytes(first_seal, last_seal, earliest)


def explained(transactions: Iterator[Transaction], file: ReadableFile) -> Iterator[Transaction]:
    """Yield the transactions of `file`; raise UnsoundTailError or DamageError at the first one that is not sound."""
    last: Transaction | None = None
    try:
        for last in transactions:
            yield last
    except Unsound as unsound:
        raise recover.explain(file, unsound, last) from None
