"""A connection whose storage says that a pack has removed, or others have changed, more than a set should hold."""

import sys

import pytest

from durus.connection import Connection
from durus.error import ReadConflictError, WriteConflictError
from durus.oid import oid_from_int
from durus.oid_array import OidArray
from durus.persistent import PersistentObject
from durus.storage import InvalidationHandler, MemoryStorage
from durus.transactions import invalidations

MANY = OidArray.of(oid_from_int(1_000 + number) for number in range(9_000))


class Item(PersistentObject):
    def __init__(self, n: int) -> None:
        self.n = n


class ManyChanged(MemoryStorage):
    """A storage of which others change very much at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.told: OidArray | None = None

    def change(self, *items: Item) -> None:
        self.told = OidArray.of([*MANY, *(item._p_oid for item in items if item._p_oid)])

    def sync(self) -> "OidArray | list[bytes]":
        told, self.told = self.told, None
        return told or []

    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        if self.told and handle_invalidations is not None:
            handle_invalidations(self.sync())
        super().end()


@pytest.fixture
def storage() -> ManyChanged:
    return ManyChanged()


@pytest.fixture(params=[0, 16, sys.maxsize])
def connection(storage: ManyChanged, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """A connection with two items, which goes through the oids, or through the objects in memory."""
    monkeypatch.setattr(invalidations, "_SEARCHED_TIMES", request.param)
    connection = Connection(storage)
    connection.root["items"] = Item(0), Item(1)
    connection.commit()
    return connection


@pytest.mark.spec("TXN-12")
def test_only_the_states_that_are_invalid_are_dropped(connection: Connection, storage: ManyChanged) -> None:
    first, second = connection.root["items"]
    assert first.n < second.n
    storage.change(second)
    connection.abort()
    assert not first._p_is_ghost()
    assert second._p_is_ghost()
    assert second.n == 1
    connection.abort()
    assert not second._p_is_ghost()


@pytest.mark.spec("TXN-13", "TXN-15")
def test_what_was_accessed_is_a_conflict_until_the_transaction_ends(
    connection: Connection, storage: ManyChanged
) -> None:
    first, second = connection.root["items"]
    first.n = 2
    storage.change(first, second)
    with pytest.raises(WriteConflictError) as caught:
        connection.commit()
    assert caught.value.oids == [first._p_oid]
    second._p_set_status_ghost()
    with pytest.raises(ReadConflictError):
        second.n  # noqa: B018 (reading is the point)
    with pytest.raises(ReadConflictError):
        list(connection.get_crawler(second._p_oid))
    with pytest.raises(WriteConflictError):
        connection.commit()
    connection.abort()
    assert (first.n, second.n) == (0, 1)


@pytest.mark.spec("TXN-12")
def test_a_commit_goes_on_if_nothing_of_it_was_accessed(connection: Connection, storage: ManyChanged) -> None:
    first, second = connection.root["items"]
    connection.abort()
    first.n = 2
    storage.change(second)
    connection.commit()
    assert first.n == 2
    assert second._p_is_ghost()


def test_a_watch_is_told_of_all_as_far_as_it_can_remember(connection: Connection, storage: ManyChanged) -> None:
    _, second = connection.root["items"]
    watch = connection.watch()
    storage.change(second)
    connection.abort()
    assert watch.dropped == {*MANY, second._p_oid}
    assert not watch.overflowed
    storage.change(second)
    connection.abort()
    assert watch.overflowed
    assert not watch.dropped
