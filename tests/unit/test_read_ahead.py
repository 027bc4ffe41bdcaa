"""Reading parts of a file with few reads: the right bytes, whatever was read before."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.error import DamageError
from durus.files.read_ahead import MAX_PAGES, PAGE_SIZE, ReadAhead
from durus.files.shelf.layout import pack_entry, pack_transaction
from durus.files.shelf.shelf import EMPTY_FILE, Shelf
from durus.oid import oid_from_int
from durus.records.record import pack_record
from tests.in_memory_file import MemoryFile

CONTENT = random.Random(1).randbytes(300_000)


class NotedFile(MemoryFile):
    """Notes the offset and the size of each read."""

    def __init__(self, data: bytes) -> None:
        super().__init__("/f", bytearray(data))
        self.reads: list[tuple[int, int]] = []

    def read_at(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return super().read_at(offset, size)


def read_ahead_of(file: NotedFile) -> ReadAhead:
    return ReadAhead(file)


def taken(source: ReadAhead, offset: int, size: int, end: int) -> bytes:
    buffer, index = source.window(offset, size, end)
    return buffer[index : index + size]


@given(
    st.lists(
        st.tuples(st.integers(0, len(CONTENT)), st.one_of(st.integers(0, 100), st.integers(0, 100_000))), max_size=8
    )
)
def test_it_gives_the_bytes_that_are_there(parts: list[tuple[int, int]]) -> None:
    source = read_ahead_of(NotedFile(CONTENT))
    for offset, size in parts:
        for place in offset, offset + size:
            assert taken(source, place, size, len(CONTENT)).startswith(CONTENT[place : place + size])


def test_each_page_is_read_once_whatever_the_order() -> None:
    file = NotedFile(CONTENT)
    source = read_ahead_of(file)
    places = [*range(0, len(CONTENT), 100)]
    random.Random(2).shuffle(places)
    for offset in places:
        taken(source, offset, 4, len(CONTENT))
    pages = -(-len(CONTENT) // PAGE_SIZE)
    assert sorted(file.reads) == [
        (number * PAGE_SIZE, min(PAGE_SIZE, len(CONTENT) - number * PAGE_SIZE)) for number in range(pages)
    ]


def test_what_goes_over_the_end_of_a_page_is_read_alone() -> None:
    file = NotedFile(CONTENT)
    source = read_ahead_of(file)
    for offset, size in (PAGE_SIZE - 10, 10), (PAGE_SIZE - 10, 11), (5, PAGE_SIZE):
        assert taken(source, offset, size, len(CONTENT)) == CONTENT[offset : offset + size]
    assert file.reads == [(0, PAGE_SIZE), (PAGE_SIZE - 10, 11), (5, PAGE_SIZE)]


def test_a_set_number_of_pages_is_kept() -> None:
    file = NotedFile(bytes((MAX_PAGES + 2) * PAGE_SIZE))
    source = read_ahead_of(file)
    for number in [*range(MAX_PAGES), *range(MAX_PAGES)]:
        taken(source, number * PAGE_SIZE, 1, len(file.data))
    assert len(file.reads) == MAX_PAGES
    taken(source, MAX_PAGES * PAGE_SIZE, 1, len(file.data))
    taken(source, 0, 1, len(file.data))
    assert len(file.reads) == MAX_PAGES + 2


def test_what_stands_after_the_end_is_not_remembered() -> None:
    file = NotedFile(CONTENT[:1000])
    source = read_ahead_of(file)
    assert taken(source, 100, 50, 200) == CONTENT[100:150]
    file.data[200:] = b"committed by now"
    assert taken(source, 190, 26, 216) == CONTENT[190:200] + b"committed by now"
    source = read_ahead_of(file)
    assert taken(source, 210, 6, 205) == taken(source, 300, 10, 216) == b""


class DamagedFile(NotedFile):
    """Can't be read from byte 1,000 on."""

    def read_at(self, offset: int, size: int) -> bytes:
        if offset + size > 1000:
            raise DamageError(self.path, 1000, "it is damaged", "restore it")
        return super().read_at(offset, size)


def test_damage_further_on_is_no_error() -> None:
    source = read_ahead_of(DamagedFile(CONTENT))
    assert taken(source, 900, 100, len(CONTENT)) == CONTENT[900:1000]
    with pytest.raises(DamageError, match="it is damaged"):
        source.window(900, 101, len(CONTENT))
    assert taken(source, 900, 101, 1000) == CONTENT[900:1000]


def test_the_first_byte_of_a_file_is_read_like_others() -> None:
    assert taken(read_ahead_of(NotedFile(CONTENT)), 0, 1, len(CONTENT)) == CONTENT[:1]


@pytest.mark.spec("SHELF-11")
@pytest.mark.parametrize("size", [*range(PAGE_SIZE - 240, PAGE_SIZE + 4), 3 * PAGE_SIZE])
def test_records_are_read_wherever_what_was_read_before_ends(size: int) -> None:
    records = {
        oid_from_int(number): pack_record(oid_from_int(number), CONTENT[:length], b"")
        for number, length in enumerate((size, 70, 5, 1 << 17, 1))
    }
    entries = [pack_entry(oid, record) for oid, record in records.items()]
    start = Shelf(NotedFile(EMPTY_FILE)).checksum
    data, _ = pack_transaction(b"".join(entries), len(EMPTY_FILE), "2026-01-02T03:04:05.000006Z", start)
    shelf = Shelf(NotedFile(EMPTY_FILE + data))
    for _ in range(2):
        assert {oid: shelf.read(oid) for oid in records} == records
