"""Exactly what a check of a SHELF-1 file finds, in files that are made by hand."""

import re
from dataclasses import replace
from zlib import crc32

import pytest

from durus.files import inspection
from durus.files.inspection import Figures, Finding, Heading
from durus.files.shelf.inspection import ShelfInspection
from durus.files.shelf.layout import SEAL_SIZE, pack_entry, pack_seal, pack_transaction
from durus.files.shelf.shelf import EMPTY_FILE
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.records.record import pack_record
from durus.serialize import class_pickle
from tests.in_memory_file import MemoryFile

TIME = "2026-01-02T03:04:05.000006Z"
LATER = "2026-01-02T03:04:06.000006Z"
ROOT, ONE, TWO, THREE = (oid_from_int(n) for n in range(4))
RESERVED = b"\xff" * 7 + b"\x05"
PERSISTENT = class_pickle(Persistent)
HOLE = 10_000
"""Added to the number of the next hole it makes the word of one."""


def entry_of(oid: bytes, ref: bytes = b"") -> bytes:
    """Return an object entry that is sound, and refers to `ref`."""
    state = b"U\x01aC\x08" + ref + b"cA\nB\n\x86Qs" if ref else b""
    return pack_entry(oid, pack_record(oid, PERSISTENT + b"\x80\x04}" + state + b".", ref))


def hurt(entry: bytes) -> bytes:
    """Return the entry with another state than the one that it was written with; its lengths still fit."""
    return entry.replace(b"\x80\x04}", b"\x80\x04?")


def misfit(entry: bytes) -> bytes:
    """Return the entry with another oid than that of its record."""
    return entry[:8] + b"\1" + entry[9:]


def packed(*entries: bytes, words: list[int]) -> bytes:
    """Return the packed part of a file, with an offset map of these words of 2 bytes each."""
    body = b"".join(entries)
    start = 16 + len(body)
    numbers = len(body), 16 + 2 * len(words), 2, len(words)
    length, *map_head = (number.to_bytes(8, "big") for number in numbers)
    stored = (start + word - HOLE if word >= HOLE else word for word in words)
    return b"SHELF-1\n" + length + body + b"".join(map_head) + b"".join(word.to_bytes(2, "big") for word in stored)


def unsealed(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return len(body).to_bytes(8, "big") + body


def sealed(base: bytes, *transactions: list[bytes]) -> tuple[bytes, list[int]]:
    """Return the bytes of `base`, covered by a seal, with transactions after it; and the start of each of these."""
    data, checksum = base, crc32(base)
    starts = []
    for entries in [], *transactions:
        starts.append(len(data))
        transaction, checksum = pack_transaction(b"".join(entries), len(data), TIME, checksum)
        data += transaction
    return data, starts[1:]


def checked(data: bytes) -> tuple[ShelfInspection, list[Finding]]:
    check = ShelfInspection(MemoryFile("/f", bytearray(data)))
    return check, list(check.findings())


def heading_of(data: bytes) -> Heading:
    return ShelfInspection(MemoryFile("/f", bytearray(data))).heading()


def told(data: bytes) -> list[tuple[int | None, bytes | None, str]]:
    """Return (file offset, oid, problem) of each fault."""
    _, findings = checked(data)
    assert all(finding.is_fault for finding in findings)
    return [(finding.offset, finding.oid, finding.problem) for finding in findings]


def is_told(data: bytes, *expected: tuple[int, bytes | None, str]) -> None:
    """Assert that exactly these faults are reported, each by a text that contains the one given here."""
    found = told(data)
    assert [fault[:2] for fault in found] == [fault[:2] for fault in expected]
    for (*_, problem), (*_, part) in zip(found, expected, strict=True):
        assert part in problem


SMALL = packed(entry_of(ROOT), words=[16, HOLE + 1])
PLACE_OF_SECOND = 16 + len(entry_of(ROOT))


# Figures


@pytest.mark.parametrize("size", [0, 20])
def test_unfinished_creation_is_the_only_finding_and_holds_nothing(size: int) -> None:
    check, (finding,) = checked(EMPTY_FILE[:size])
    assert (finding.offset, finding.oid, finding.is_fault) == (size, None, True)
    assert (check.size, check.transactions, check.objects, check.unsealed_size) == (size, 0, 0, 0)


def test_sound_file_has_no_finding_and_its_figures() -> None:
    base = packed(entry_of(ROOT, TWO), entry_of(TWO), words=[16, HOLE + 3, len(entry_of(ROOT, TWO)) + 16, HOLE + 1])
    data, _ = sealed(base, [entry_of(ONE), entry_of(TWO, ONE)], [entry_of(ROOT, TWO)])
    check, findings = checked(data)
    assert findings == []
    assert (check.size, check.transactions, check.objects, check.unsealed_size) == (len(data), 2, 3, 0)


@pytest.mark.spec("SHELF-16")
def test_what_stands_after_the_last_seal_is_counted_as_unsealed() -> None:
    data, _ = sealed(SMALL, [entry_of(ROOT)])
    tail = unsealed(entry_of(ROOT)) + unsealed()
    assert checked(data + tail)[0].unsealed_size == len(tail)
    assert checked(SMALL + tail)[0].unsealed_size == len(SMALL + tail)
    assert checked(data + b"torn")[0].unsealed_size == 4


@pytest.mark.spec("SHELF-16")
def test_figures_tell_how_far_seals_reach() -> None:
    data, _ = sealed(SMALL, [entry_of(ONE)])
    tail = unsealed(entry_of(TWO))
    remark = f"the last {len(tail)} bytes have no seal yet"
    assert checked(data)[0].figures() == Figures(2, 1, "all", "sealed to its end")
    assert checked(data + tail)[0].figures() == Figures(3, 2, "part", remark)
    assert checked(SMALL + tail)[0].figures() == Figures(2, 1, "none", "no seals (as Durus 4.3 writes it)")
    assert checked(EMPTY_FILE)[0].figures() == Figures(0, 0, "none", "no seals")


@pytest.mark.spec("SHELF-16")
def test_heading_tells_sizes_seals_and_what_is_torn() -> None:
    size, start = len(entry_of(ROOT)), len(SMALL)
    unsealed_only = Heading("SHELF-1", start, start, size, 0, 0, "none")
    assert heading_of(SMALL) == unsealed_only
    first, checksum = pack_transaction(entry_of(ONE), start, TIME, crc32(SMALL))
    data = SMALL + first
    one_seal = Heading("SHELF-1", len(data), start, size + len(entry_of(ONE)), 1, 0, "all", TIME, TIME)
    assert heading_of(data) == one_seal
    data += pack_transaction(b"", len(data), LATER, checksum)[0] + unsealed(entry_of(TWO))
    sizes = size + len(entry_of(ONE)) + len(entry_of(TWO))
    both = Heading("SHELF-1", len(data), start, sizes, 2, 1, "part", TIME, LATER)
    assert heading_of(data) == both
    torn = heading_of(data + b"torn")
    assert "sound transaction" in str(torn.tail)
    assert replace(torn, tail=None) == replace(both, size=len(data) + 4)


@pytest.mark.spec("CMD-17")
@pytest.mark.parametrize("zeros", [8, 16, 1000, 8000])
def test_zeros_after_the_last_commit_are_noted(zeros: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "CHUNK_SIZE", 1000)
    data, _ = sealed(SMALL, [entry_of(ROOT)])
    for before in (data, SMALL, data + unsealed(entry_of(ROOT))):
        _, (finding,) = checked(before + bytes(zeros))
        assert (finding.offset, finding.oid, finding.is_fault) == (len(before), None, False)
        assert finding.problem.startswith(f"the last {zeros} bytes are zeros, which no commit writes")
    assert checked(data + bytes(zeros) + unsealed(entry_of(ROOT)))[1] == []
    _, (torn, note) = checked(data + bytes(zeros + 3))
    assert (torn.is_fault, note.offset, note.is_fault) == (True, len(data), False)
    assert [each.is_fault for each in checked(data + bytes(zeros) + b"torn")[1]] == [True]
    assert [each.is_fault for each in checked(data + bytes(zeros) + b"\0\0\1")[1]] == [True]


@pytest.mark.spec("CMD-17")
def test_only_transactions_with_objects_are_counted() -> None:
    data, _ = sealed(SMALL, [entry_of(ROOT)], [], [entry_of(ROOT)], [])
    data += bytes(4096) + unsealed(entry_of(ROOT)) + bytes(4096)
    figures, _ = checked(data)
    assert figures.transactions == 3
    heading = heading_of(data)
    assert (heading.transactions, heading.unsealed_transactions) == (3, 1)


@pytest.mark.spec("SHELF-15")
def test_seal_in_the_packed_part_is_held_against_all_bytes_ahead_of_it() -> None:
    body = entry_of(ROOT)
    covered = crc32(b"SHELF-1\n" + (len(body) + SEAL_SIZE).to_bytes(8, "big") + body)
    seal, _ = pack_seal(16 + len(body), TIME, covered)
    assert told(packed(body, seal, words=[16, HOLE + 1])) == []


# The packed part


def test_packed_part_that_can_not_be_read_leaves_out_what_only_it_could_tell() -> None:
    data, (_, second) = sealed(SMALL, [entry_of(ONE, TWO)], [hurt(entry_of(THREE))])
    beyond = data[:8] + b"\xff" + data[9:]
    expected = (8, None, "claims to end"), (second + 8, THREE, "")
    is_told(beyond, *expected)  # but not that there is no root, nor an oid 2
    check, _ = checked(beyond)
    assert (check.transactions, check.objects, check.unsealed_size) == (2, 2, 0)
    is_told(beyond + b"torn", *expected[:1], (len(data), None, "not a complete, sound transaction"), *expected[1:])
    assert not any("--repair" in problem for *_, problem in told(beyond + b"torn"))


def test_packed_part_without_any_seal_after_is_the_end_of_what_can_be_read() -> None:
    check, (finding,) = checked(b"SHELF-1\n\xff" + SMALL[9:] + unsealed(entry_of(ONE)))
    assert finding.offset == 8
    assert (check.transactions, check.objects, check.unsealed_size) == (0, 0, check.size)


def test_entries_after_an_unsound_one_of_the_packed_part_are_found_by_the_offset_map() -> None:
    words = [16, PLACE_OF_SECOND, HOLE + 2]
    base = packed(misfit(entry_of(ROOT)), hurt(entry_of(ONE, TWO)), words=words)
    expected = (16, None, "does not fit"), (16, ROOT, "no sound entry"), (PLACE_OF_SECOND, ONE, "can't be read")
    is_told(base, *expected)  # but not that there is no oid 2
    assert checked(base)[0].objects == 2
    is_told(base + b"torn", *expected[:1], (len(base), None, "not a complete, sound transaction"), *expected[1:])
    assert not any("--repair" in problem for *_, problem in told(base + b"torn"))


def test_words_of_the_offset_map_are_held_against_the_entries() -> None:
    base = packed(entry_of(ROOT), entry_of(TWO), words=[16, 17, PLACE_OF_SECOND + 1, HOLE + 3])
    place_of_word = 16 + len(entry_of(ROOT) + entry_of(TWO)) + 24 + 2
    is_told(
        base,
        (PLACE_OF_SECOND, TWO, "does not lead to this entry"),
        (place_of_word, ONE, "leads to byte 17, where no entry"),
    )


@pytest.mark.spec("SHELF-9")
@pytest.mark.parametrize(
    ("words", "place", "problem"),
    [
        ([HOLE + 3, HOLE + 3, HOLE + 1], 0, "is not complete"),  # it leaves oid 2 out
        ([HOLE + 2, HOLE + 1, HOLE + 2], 24 + 2, "oid 1 is chained to 2"),
    ],
)
def test_chain_of_free_oids_goes_through_all_of_them(words: list[int], place: int, problem: str) -> None:
    is_told(packed(entry_of(ROOT), words=[16, *words]), (PLACE_OF_SECOND + place, None, problem))
    assert told(packed(entry_of(ROOT), words=[16, HOLE + 3, HOLE + 1, HOLE + 2])) == []


@pytest.mark.spec("REC-3")
def test_entries_of_reserved_oids_are_noted_where_they_stand() -> None:
    base = packed(entry_of(ROOT), entry_of(RESERVED), words=[16, HOLE + 1])
    data, (start,) = sealed(base, [entry_of(ROOT), entry_of(RESERVED), entry_of(ONE)])
    _, findings = checked(data)
    assert [(finding.offset, finding.oid, finding.is_fault) for finding in findings] == [
        (PLACE_OF_SECOND, RESERVED, False),
        (start + 8 + len(entry_of(ROOT)), RESERVED, False),
    ]


# Transactions


def test_transactions_after_one_that_is_damaged_are_checked_from_the_next_seal_on() -> None:
    transactions = [misfit(entry_of(TWO))], [hurt(entry_of(THREE))], [entry_of(ROOT, TWO)]
    data, (first, second, _) = sealed(SMALL, *transactions)
    expected = (first + 8, None, "does not fit"), (second + 8, THREE, "can't be read")
    is_told(data, *expected)  # but not that there is no oid 2: its entry may be the damaged one
    check, _ = checked(data)
    assert (check.transactions, check.objects, check.unsealed_size) == (2, 2, 0)
    is_told(data + b"torn", *expected[:1], (len(data), None, "not a complete, sound transaction"), *expected[1:])
    assert not any("--repair" in problem for *_, problem in told(data + b"torn"))
    assert checked(data + b"torn")[0].unsealed_size == 4


def test_seal_of_a_damaged_transaction_covers_it_all_the_same() -> None:
    data, _ = sealed(SMALL, [misfit(entry_of(ONE))])
    assert checked(data)[0].unsealed_size == 0
    assert checked(data + unsealed())[0].unsealed_size == 8


def test_each_damaged_transaction_is_told() -> None:
    data, starts = sealed(SMALL, *([misfit(entry_of(ONE))] for _ in range(3)))
    assert [place for place, *_ in told(data)] == [start + 8 for start in starts[:2]] + [starts[2]]


def test_transaction_with_another_checksum_is_searched_for_records_that_are_hurt() -> None:
    data, (start, _) = sealed(SMALL, [entry_of(ONE), entry_of(TWO)], [])
    place = start + 8 + len(entry_of(ONE))
    data = data[:place] + hurt(data[place:])
    is_told(data, (start, None, "the checksum is"), (place, TWO, "can't be read"))
    assert checked(data)[0].objects == 3


def test_remedy_for_an_unsound_tail_is_named_where_all_else_is_sound() -> None:
    data, (start,) = sealed(SMALL, [entry_of(ONE)])
    _, remedy = told(data + b"torn")[0][2].split("cut after 4 of its 8 bytes")
    assert re.fullmatch(
        "; `durus shell --repair ([^ `]+)` cuts off what a crash has left; if nothing has crashed, "
        r"`durus salvage \1 \1\.salvaged` copies what is sound",
        remedy,
    )
    damaged = data[: start + 8] + misfit(data[start + 8 :])
    assert told(damaged + b"torn")[1][2].endswith("cut after 4 of its 8 bytes")


def test_commit_that_is_under_way_is_noted_where_it_starts() -> None:
    data, (start, _) = sealed(SMALL, [entry_of(ONE)], [])
    file = MemoryFile("/f", bytearray(data[: start + 10]))
    check = ShelfInspection(file)
    file.append(data[start + 10 :])
    (note,) = check.findings()
    assert (note.offset, note.oid, note.is_fault) == (start, None, False)
    assert "in progress" in note.problem


@pytest.mark.spec("CMD-17")
def test_zeros_are_noted_up_to_where_the_file_ended() -> None:
    data, _ = sealed(SMALL, [entry_of(ROOT)])
    file = MemoryFile("/f", bytearray(data + bytes(16)))
    check = ShelfInspection(file)
    file.append(b"a commit")
    (note,) = check.findings()
    assert (note.offset, note.is_fault) == (len(data), False)


# Records


def test_records_are_told_in_the_order_of_the_file() -> None:
    data = EMPTY_FILE + unsealed(hurt(entry_of(TWO)), hurt(entry_of(ROOT)), hurt(entry_of(ONE)))
    assert [oid for _, oid, _ in told(data)] == [TWO, ROOT, ONE]


@pytest.mark.spec("SHELF-11")
def test_only_the_newest_entry_of_an_oid_is_looked_into() -> None:
    assert told(EMPTY_FILE + unsealed(hurt(entry_of(ROOT))) + unsealed(entry_of(ROOT))) == []


def test_root_that_is_missing_is_told_once_there_are_objects() -> None:
    is_told(EMPTY_FILE + unsealed(entry_of(ONE)), (0, ROOT, "there is no root object"))
    assert not any(each.is_fault for each in checked(EMPTY_FILE + unsealed())[1])


def test_reference_without_a_record_is_told_in_a_file_that_is_complete() -> None:
    data = EMPTY_FILE + unsealed(entry_of(ROOT, TWO))
    is_told(data, (len(EMPTY_FILE) + 8, ROOT, "refers to oid 2, which has no record"))
