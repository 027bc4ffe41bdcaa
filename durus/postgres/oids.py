"""The oids of one client of an engine. Statement PG-30."""

from collections.abc import Callable, Collection, Iterator

from durus.oid import ROOT_OID, oid_from_int
from durus.sharing.oid_grants import OidGrants

_FIRST_BLOCK = 32
_MAX_BLOCK = 4096
"""How many oids are taken at a time: at first, and when many are used."""


class ClientOids:
    """What a client was given, from blocks of oids that it has for itself."""

    def __init__(self) -> None:
        self.given = OidGrants()
        """The oids that were given to it, and that were not committed."""
        self.knows_root = False
        """True if there is known to be a root."""
        self._block: Iterator[int] = iter(range(0))
        """The oids to give next."""
        self._block_size = _FIRST_BLOCK

    def give_root(self) -> bytes:
        """Give the oid of the root, of which there is none."""
        self.given.add([ROOT_OID])
        return ROOT_OID

    def give(self, take_block: Callable[[int], range]) -> bytes:
        """Give the next oid; `take_block` takes a block of this many from the engine."""
        number = next(self._block, None)
        if number is None:
            size, self._block_size = self._block_size, min(2 * self._block_size, _MAX_BLOCK)
            self._block = iter(take_block(size))
            number = next(self._block)
        oid = oid_from_int(number)
        self.given.add([oid])
        return oid

    def note_stored(self, oids: Collection[bytes]) -> None:
        """Note that there are objects with these oids now."""
        self.given.discard(oids)
        self.knows_root = self.knows_root or ROOT_OID in oids
