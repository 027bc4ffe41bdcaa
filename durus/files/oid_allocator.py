"""Which oids a storage in a file gives out. Statements SHELF-9, SHELF-38, DFS-8."""

from collections.abc import Callable, Iterator

from durus.oid import oid_from_int


class OidAllocator:
    """Gives out oids that no object has: first those of `holes`, and then those from `next_number` on."""

    def __init__(self, holes: Iterator[int], next_number: int) -> None:
        self._holes = holes
        self._next_number = next_number

    def new_oid(self, offset_of: Callable[[bytes], int | None]) -> bytes:
        """Return an oid for which offset_of() returns None, and which was not given out before."""
        for number in self._holes:
            oid = oid_from_int(number)
            if offset_of(oid) is None:
                return oid
        while True:
            number = self._next_number
            oid = number.to_bytes(8, "big")  # the same as oid_from_int(), without a call
            self._next_number = number + 1
            if offset_of(oid) is None:
                return oid

    def leave_holes(self) -> None:
        """Give out no more holes, because it is unknown which of them were given out."""
        self._holes = iter(())

    def leave_removed(self, highest: int) -> None:
        """Give out nothing that a pack removed, up to the number `highest`, until the file is opened again.

        A connection may still have such an object in memory. [SHELF-38]
        """
        self.leave_holes()
        self._next_number = max(self._next_number, highest + 1)
