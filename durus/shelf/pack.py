"""The packed copy of a shelf. Statements SHELF-30 to SHELF-38."""

from collections.abc import Iterator

from durus.file import File
from durus.packer import Committed, Packer
from durus.progress import Progress
from durus.shelf.layout import ENTRY_FRAME_SIZE, pack_entry
from durus.shelf.new_shelf import NewShelf
from durus.shelf.scan import scan_transactions
from durus.shelf.shelf import Shelf


class ShelfPacker(Packer[Shelf]):
    """A Packer from a shelf into a shelf."""

    def __init__(self, shelf: Shelf, target: File, time: str) -> None:
        super().__init__(shelf, target)
        self._new = NewShelf(target)
        self._time = time
        self._followed_checksum = shelf.checksum

    def _position(self, oid: bytes) -> int | None:
        offset = super()._position(oid)
        return self._source.map.position(oid) if offset is None else offset

    def _snapshot_positions(self) -> Iterator[tuple[bytes, int]]:
        newer = self._snapshot
        yield from sorted(
            ((oid, offset) for oid, offset in self._source.map.positions() if oid not in newer),
            key=lambda pair: pair[1],
        )
        yield from super()._snapshot_positions()

    def _copy(self) -> Iterator[Progress]:
        size = self._live_size + ENTRY_FRAME_SIZE * self._live_count
        return self._new.write_base(self._live_records(), self._live_count, size, self._highest_live(), self._time)

    def _gen_committed(self) -> Iterator[Committed]:
        shelf = self._source
        for found in scan_transactions(shelf.file, self._followed_to, shelf.end, self._followed_checksum):
            yield Committed(found.entries, found.end, found.seal.time if found.seal else self._time)
            self._followed_checksum = found.checksum

    def _append(self, records: dict[bytes, bytes], time: str) -> None:
        self._new.append([pack_entry(oid, record) for oid, record in records.items()], time)

    def open_target(self) -> Shelf:
        return Shelf(self._target)
