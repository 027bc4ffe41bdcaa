"""Where one flipped bit is that a checksum tells of. Statement SALV-4.

A crc32 is linear: what a flipped bit changes in it depends only on how many bytes follow. So the difference of two
checksums is followed back, a byte at a time, until it is that of one bit in the byte that is met.
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
    """Return (index of the byte, number of the bit) that has to be flipped in some bytes for their crc32 to be right.

    `size` is how many bytes there are, `computed` is their crc32, and `stated` is what it should be. None if no one
    bit explains the difference.
    """
    difference = computed ^ stated
    for index in range(size - 1, -1, -1):
        bit = _BIT_OF.get(difference)
        if bit is not None:
            return index, bit
        table_index = _INDEX_OF_HIGH_BYTE[difference >> 24]
        difference = (difference ^ _TABLE[table_index]) << 8 & 0xFFFFFFFF | table_index
    return None
