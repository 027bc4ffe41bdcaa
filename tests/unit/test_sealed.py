"""The sealed part of a file: where its last seal ends, and reading it once."""

from pathlib import Path

import pytest

from durus.connection import Connection
from durus.error import DamageError
from durus.file_storage import FileStorage
from durus.files.shelf import sealed
from durus.files.shelf.layout import SEAL_SIZE, parse_seal
from durus.files.shelf.sealed import end_of_last_seal, read_sealed
from durus.files.shelf.shelf import read_header
from tests.in_memory_file import MemoryFile
from tests.model.histories import ROOT, Item, unsealed_transaction


class NotingFile(MemoryFile):
    """Notes how many bytes each read asks for."""

    def __init__(self, data: bytes | bytearray) -> None:
        super().__init__("f", bytearray(data))
        self.asked: list[int] = []

    def read_at(self, offset: int, size: int) -> bytes:
        self.asked.append(size)
        return super().read_at(offset, size)


@pytest.fixture
def packed_file(tmp_path: Path) -> NotingFile:
    """A file with a packed part, and three commits after it."""
    with Connection(FileStorage(tmp_path / "f")) as connection:
        connection.get_root()["a"] = "packed"
        connection.commit()
        connection.pack()
        for number in range(3):
            connection.get_root()["a"] = number
            connection.commit()
    return NotingFile((tmp_path / "f").read_bytes())


# The last seal


@pytest.mark.spec("BACKUP-10")
def test_a_seal_at_the_border_of_what_is_read_is_found(packed_file: NotingFile) -> None:
    end = len(packed_file.data)
    first = sealed._FIRST_SEARCH
    for border in (first, 3 * first, 7 * first):
        for shift in (-SEAL_SIZE - 1, -SEAL_SIZE, 1 - SEAL_SIZE, -2, -1, 0, 1):
            file = NotingFile(packed_file.data + bytes(border + shift))
            assert end_of_last_seal(file, 0) == end
            sizes = [each - (SEAL_SIZE - 1) for each in file.asked]
            assert sizes[:-1] == [first, 2 * first, 4 * first][: len(sizes) - 1]
            assert sizes[-1] <= 2 * sizes[-2] if sizes[1:] else sizes[0] == first


@pytest.mark.spec("BACKUP-10")
def test_a_seal_before_the_start_is_not_looked_for(packed_file: NotingFile) -> None:
    end = len(packed_file.data)
    assert end_of_last_seal(packed_file, end - SEAL_SIZE) == end
    assert end_of_last_seal(packed_file, end - SEAL_SIZE + 1) is None


# Reading


def read(file: NotingFile, end: int) -> tuple[list[int], sealed.SealedBytes]:
    """Read the bytes up to `end`; return the offsets that were told, and what came out."""
    reading, offsets = read_sealed(file, file, 0, end, 0), []
    while True:
        try:
            offsets.append(next(reading))
        except StopIteration as ended:
            return offsets, ended.value


@pytest.mark.spec("SHELF-16", "BACKUP-11")
def test_the_packed_part_is_read_in_pieces_and_the_rest_by_transactions(
    packed_file: NotingFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "CHUNK_SIZE", 50)
    end = len(packed_file.data)
    first = read_header(packed_file).end
    offsets, found = read(packed_file, end)
    pieces = list(range(0, first, 50))
    assert len(pieces) > 1
    assert first % 50
    assert offsets[: len(pieces)] == pieces
    assert offsets[-1] == end
    assert offsets == sorted(set(offsets))
    assert len(offsets) > len(pieces) + 3
    assert found.last_seal == parse_seal(bytes(packed_file.data), end - SEAL_SIZE)
    assert first < found.first_seal.offset < found.last_seal.offset
    assert found.earliest == found.first_seal.time <= found.last_seal.time


@pytest.mark.spec("SHELF-16", "BACKUP-11")
def test_bytes_that_end_in_the_packed_part_are_damage(packed_file: NotingFile) -> None:
    first = read_header(packed_file).end
    with pytest.raises(DamageError, match=f"the packed part ends at byte {first}, after a seal") as caught:
        read(packed_file, first - 1)
    assert caught.value.offset == 0


@pytest.mark.spec("SHELF-16", "BACKUP-11")
def test_bytes_without_a_seal_at_their_end_are_damage(packed_file: NotingFile) -> None:
    unsealed = NotingFile(packed_file.data + unsealed_transaction({ROOT: 0}, {ROOT: Item(b"a", ())}))
    for file, end in ((packed_file, read_header(packed_file).end), (unsealed, len(unsealed.data))):
        with pytest.raises(DamageError, match="look like a seal, but are not") as caught:
            read(file, end)
        assert caught.value.offset == end - SEAL_SIZE
