"""Find the one flipped bit that explains a wrong checksum. Statement SALV-4.

A crc32 is linear: the change that a flipped bit makes in it depends only on the number of bytes that follow. So the
difference of two checksums is traced back, one byte at a time, until it is that of one bit in the current byte.
"""

_POLYNOMIAL = 0xEDB88320


def _step(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = [_step(value) for value in range(256)]
_INDEX_OF_HIGH_BYTE = {value >> 24: index for index, value in enumerate(_TABLE)}
_BIT_OF = {_TABLE[1 << bit]: bit for bit in range(8)}


def find_flipped_bit(size: int, computed: int, stated: int) -> tuple[int, int] | None:
    """Return the bit whose flip makes the crc32 of some bytes right, as (index of the byte, number of the bit).

    `size` is the number of bytes, `computed` is their crc32, and `stated` is what it should be. None if no single bit
    explains the difference.
    """
    difference = computed ^ stated
    for index in range(size - 1, -1, -1):
        bit = _BIT_OF.get(difference)
        if bit is not None:
            return index, bit
        table_index = _INDEX_OF_HIGH_BYTE[difference >> 24]
        difference = (difference ^ _TABLE[table_index]) << 8 & 0xFFFFFFFF | table_index
    return None
