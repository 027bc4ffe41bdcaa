"""What a pack has removed, as an array: how it is collected, and what it takes."""

from array import array
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.oid import oid_from_int
from durus.oid_array import OidArray, OidCollector, joined


def collector_of(numbers: Collection[int]) -> OidCollector:
    found = OidCollector()
    for number in numbers:
        found.add(number)
    return found


@given(
    st.sets(st.one_of(st.integers(0, 300), st.integers(65_000, 66_000), st.integers(0, 2**64 - 1))).flatmap(
        lambda numbers: st.permutations(sorted(numbers))
    ),
    st.sets(st.integers(0, 300)),
)
def test_a_collector_gives_its_oids_in_order(numbers: list[int], others: set[int]) -> None:
    collector = collector_of(numbers)
    assert collector.highest == max(numbers, default=-1)
    found = collector.all_but([oid_from_int(number) for number in others])
    assert list(found) == [oid_from_int(number) for number in sorted(set(numbers) - others)]
    assert list(collector.all_but(())) == [oid_from_int(number) for number in sorted(numbers)]


@pytest.mark.parametrize(("first", "size"), [(0, 4), (2**32, 8)])
def test_an_oid_of_an_array_takes_few_bytes(first: int, size: int) -> None:
    assert collector_of(range(first, first + 100)).all_but(()).numbers.itemsize == size


@pytest.mark.parametrize("count", [4095, 4096, 4097, 10_000])
def test_an_array_of_any_length_is_gone_through(count: int) -> None:
    assert list(OidArray(array("Q", range(count)))) == [oid_from_int(number) for number in range(count)]


def test_two_removals_become_one() -> None:
    one, two, three = map(oid_from_int, range(3))
    assert list(joined([], OidArray.of([two, one]))) == [one, two]
    for first in [two, three], OidArray.of([two, three]):
        assert list(joined(first, OidArray.of([one, two]))) == [one, two, three]
