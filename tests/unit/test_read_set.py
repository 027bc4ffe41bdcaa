"""The read set of a transaction: in C it does what the set in Python does. [TXN-2]"""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.oid import oid_from_int
from durus.persistent import ConnectionBase, Persistent, ReadSet, implementation, new_ghost, take_state
from tests.no_memory import NO_MEMORY, call_without_memory, in_a_process_alone

oids = st.one_of(st.integers(0, 40), st.integers(0, (1 << 64) - 1), st.integers(0, 20).map(lambda n: n << 40)).map(
    oid_from_int
)


@pytest.mark.spec("TXN-2")
@given(steps=st.lists(st.one_of(oids, st.lists(oids), st.sampled_from(["clear", "ask"]))), asked=st.lists(oids))
def test_it_has_what_was_added_since_it_was_cleared(steps: list[Any], asked: list[bytes]) -> None:
    found, expected = ReadSet(), set[bytes]()
    for step in steps:
        if step == "clear":
            found.clear()
            expected.clear()
        elif step == "ask":
            assert len(found) == len(expected)
            assert bool(found) == bool(expected)
        elif isinstance(step, bytes):
            found.add(step)
            expected.add(step)
        else:
            found.update(step)
            expected.update(step)
    assert sorted(found) == sorted(expected)
    assert [oid in found for oid in asked] == [oid in expected for oid in asked]
    assert found.isdisjoint(asked) == expected.isdisjoint(asked)
    assert found.isdisjoint([])


@pytest.mark.parametrize("step", [1, 7, 1 << 12, 1 << 33])
def test_it_has_many_oids_of_any_pattern(step: int) -> None:
    expected = [oid_from_int(number * step) for number in range(70_000)]
    found = ReadSet()
    found.update(random.Random(step).sample(expected, len(expected)))
    found.update(expected)
    assert len(found) == len(expected)
    assert sorted(found) == expected
    assert oid_from_int(70_000 * step) not in found
    found.clear()
    assert not found
    assert not found.isdisjoint([]) or list(found) == []


def test_what_is_added_while_it_is_iterated_over_does_not_come() -> None:
    if implementation != "C":
        pytest.skip("a set in Python raises RuntimeError")
    found = ReadSet()
    found.update([oid_from_int(1), oid_from_int(2)])
    for oid in found:
        found.update(oid_from_int(number) for number in range(100))
        assert int.from_bytes(oid, "big") in (1, 2)


def failing() -> Iterator[bytes]:
    yield bytes(8)
    raise LookupError("no more")


def test_errors_of_what_it_is_given_come_out() -> None:
    found = ReadSet()
    with pytest.raises(LookupError, match="no more"):
        found.update(failing())
    assert list(found) == [bytes(8)]
    found.clear()
    with pytest.raises(LookupError, match="no more"):
        found.isdisjoint(failing())
    for call in found.update, found.isdisjoint:
        with pytest.raises(TypeError):
            call(5)  # type: ignore[arg-type]  # on purpose


def test_it_takes_oids_only_in_c() -> None:
    if implementation != "C":
        pytest.skip("a set in Python takes anything")
    found = ReadSet()
    for wrong in (b"", bytes(9), "12345678", 1, None):
        with pytest.raises(TypeError, match="takes oids of 8 bytes, not"):
            found.add(wrong)  # type: ignore[arg-type]  # on purpose
        assert wrong not in found
    with pytest.raises(TypeError, match="takes no arguments"):
        ReadSet([bytes(8)])


class Loading(ConnectionBase):
    def load_state(self, obj: Any) -> None:
        take_state(obj, {"x": 1}, True)


def read_many() -> int:
    connection = Loading()
    connection.transaction_serial = 1
    for number in range(100):
        ghost: Any = new_ghost(Persistent, oid_from_int(number), connection)
        assert ghost.x == 1
    return len(connection.accessed) + len(list(connection.accessed))


@in_a_process_alone
def test_without_memory_an_access_fails_and_nothing_else() -> None:
    assert read_many() == 200
    for number in range(0, 2000, 7):
        assert call_without_memory(number, read_many) in (200, NO_MEMORY)
