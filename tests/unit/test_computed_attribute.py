"""ComputedAttribute: what one client invalidates, every client computes again."""

from collections.abc import Callable
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import WriteConflictError
from durus.persistent import ComputedAttribute
from durus.shared_storage import SharedStorage
from durus.storage import MemoryStorage, Storage
from tests.in_memory_server import InMemoryServer

pytestmark = pytest.mark.spec("OBJ-25")


def of_one_process() -> Callable[[], Storage]:
    return SharedStorage(MemoryStorage()).new_client


def of_a_server() -> Callable[[], Storage]:
    return InMemoryServer(MemoryStorage()).new_client


@pytest.fixture(params=[of_one_process, of_a_server])
def clients(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """The roots of three clients, each of which has got root["total"] of root["prices"] once."""
    new_client = request.param()
    first = Connection(new_client())
    root: Any = first.get_root()
    root["prices"], root["total"] = [1, 2], ComputedAttribute()
    first.commit()
    roots: tuple[Any, Any, Any] = root, Connection(new_client()).get_root(), Connection(new_client()).get_root()
    for each in roots:
        assert total(each) == 3
        each._p_connection.commit()
    return roots


def total(root: Any) -> int:
    result: int = root["total"].get(lambda: sum(root["prices"]))
    return result


def test_an_invalidation_in_one_client_recomputes_in_all(clients: tuple[Any, Any, Any]) -> None:
    first, second, third = clients
    first["prices"] = [1, 2, 3]
    first["total"].invalidate()
    assert total(first) == 6
    assert total(second) == 3  # it sees the state from before
    first._p_connection.commit()
    for root in (second, third):
        root._p_connection.abort()
        assert total(root) == 6
    assert total(first) == 6


def test_a_change_without_an_invalidation_recomputes_nowhere(clients: tuple[Any, Any, Any]) -> None:
    first, second, _ = clients
    first["prices"] = [1, 2, 3]
    first._p_connection.commit()
    second._p_connection.abort()
    assert (total(first), total(second)) == (3, 3)


def test_an_invalidation_that_is_aborted_recomputes_in_its_client_alone(clients: tuple[Any, Any, Any]) -> None:
    first, second, _ = clients
    first["total"].invalidate()
    first._p_connection.abort()
    second._p_connection.abort()
    assert not second["total"]._p_is_ghost()
    assert second["total"].get(lambda: 0) == 3
    assert first["total"].get(lambda: 0) == 0


def test_a_commit_that_used_a_value_which_was_invalidated_is_a_conflict(clients: tuple[Any, Any, Any]) -> None:
    first, second, _ = clients
    second["double"] = 2 * total(second)
    first["total"].invalidate()
    first._p_connection.commit()
    with pytest.raises(WriteConflictError):
        second._p_connection.commit()
    second._p_connection.abort()
    assert "double" not in second
