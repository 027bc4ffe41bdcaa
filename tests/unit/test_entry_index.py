"""The index of a file: the offset of the newest entry of each oid, in both forms."""

import gc
import random
import struct
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.files.entry_index import PLACE, EntryIndex
from durus.implementation import implementation
from durus.oid import oid_from_int
from tests.no_memory import NO_MEMORY, call_without_memory, in_a_process_alone

oids = st.one_of(st.integers(0, 40), st.integers(0, (1 << 64) - 1), st.integers(0, 20).map(lambda n: n << 40)).map(
    oid_from_int
)
offsets = st.integers(0, (1 << 64) - 1)


def packed(*pairs: tuple[bytes, int]) -> bytes:
    return b"".join(PLACE.pack(oid, offset) for oid, offset in pairs)


@pytest.mark.spec("SHELF-11")
@given(steps=st.lists(st.lists(st.tuples(oids, offsets))), asked=st.lists(oids))
def test_the_last_place_of_an_oid_counts(steps: list[list[tuple[bytes, int]]], asked: list[bytes]) -> None:
    found, expected = EntryIndex(), dict[bytes, int]()
    for pairs in steps:
        found.add(bytearray(packed(*pairs)))
        expected.update(pairs)
        assert len(found) == len(expected)
    assert list(map(found.get, [*asked, *expected])) == list(map(expected.get, [*asked, *expected]))
    assert [oid in found for oid in asked] == [oid in expected for oid in asked]
    assert [found.count_below(oid) for oid in asked] == [sum(each < oid for each in expected) for oid in asked]
    places = list(PLACE.iter_unpack(found.places()))
    assert dict(places) == expected
    assert [offset for _, offset in places] == sorted(expected.values())


@pytest.mark.parametrize("step", [1, 7, 1 << 12, 1 << 33])
def test_it_has_many_oids_of_any_pattern(step: int) -> None:
    numbers = random.Random(step).sample(range(10_000), 10_000)
    pairs = [(oid_from_int(number * step), offset) for offset, number in enumerate(numbers)]
    found = EntryIndex()
    found.add(packed(*pairs))
    found.add(packed(*reversed(pairs)))
    assert len(found) == len(pairs)
    assert list(PLACE.iter_unpack(found.places())) == pairs
    assert found.get(oid_from_int(10_000 * step)) is None
    assert found.count_below(oid_from_int(10 * step)) == 10


def test_what_is_no_oid_is_not_in_it() -> None:
    found = EntryIndex()
    for added in b"", packed((bytes(8), 1)):
        found.add(added)
        for other in b"", bytes(7), bytes(9), b"\0" * 7 + b"\1":
            assert found.get(other) is None
            assert other not in found


@pytest.mark.parametrize("wrong", [bytes(15), bytes(17), 5, None])
def test_what_is_no_place_is_refused(wrong: Any) -> None:
    found = EntryIndex()
    with pytest.raises((TypeError, ValueError, struct.error)):
        found.add(wrong)
    assert not found


def test_wrong_calls_are_refused() -> None:
    found: Any = EntryIndex()
    found.add(packed((bytes(8), 1)))
    calls: list[Any] = [lambda: found.count_below(5)]
    if implementation == "C":
        calls += [lambda: type(found)({}), lambda: type(found)(a=1)]
    for call in calls:
        with pytest.raises(TypeError):
            call()


@pytest.mark.skipif(implementation != "C", reason="there is no allocation of ours in Python")
@pytest.mark.parametrize("count", [1, 17, 1000])
@in_a_process_alone
def test_without_memory_it_keeps_what_it_has(count: int) -> None:
    pairs = [(oid_from_int(number), number) for number in range(count)]
    outcomes = []
    for allocation in range(60):
        found = EntryIndex()
        found.add(packed(*pairs[: count // 2]))
        outcomes.append(call_without_memory(allocation, found.add, packed(*pairs)))
        assert outcomes[-1] in (None, NO_MEMORY)
        kept = list(PLACE.iter_unpack(found.places()))
        assert kept == pairs[: len(kept)]
        assert len(kept) >= count // 2
        found.add(packed(*pairs))
        assert list(PLACE.iter_unpack(found.places())) == pairs
        assert call_without_memory(allocation, found.places) in (packed(*pairs), NO_MEMORY)
        assert call_without_memory(allocation, lambda: len(EntryIndex())) in (0, NO_MEMORY)
        assert call_without_memory(allocation, found.get, pairs[-1][0]) in (count - 1, NO_MEMORY)
    assert NO_MEMORY in outcomes
    assert outcomes[-1] is None


@pytest.mark.skipif(implementation != "C", reason="Python itself frees what is Python")
def test_nothing_is_left_behind() -> None:
    counts = []
    for _ in range(3):
        for _ in range(300):
            found = EntryIndex()
            found.add(packed(*((oid_from_int(number), number + 1000) for number in range(100))))
            assert found.get(oid_from_int(7)) == 1007
            assert found.places()
        gc.collect()
        counts.append(sys.getallocatedblocks())
    assert abs(counts[-1] - counts[-2]) < 20
