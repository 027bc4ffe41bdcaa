"""Short runs of what happens to a PostgreSQL server; `python -m tests.model.postgres_nemesis` makes long ones."""

from collections.abc import Iterator

import pytest

from tests.model.postgres_nemesis import bank, bank_over_network, run
from tests.model.test_nemesis import IS_DEEP
from tests.postgres import Pair, PostgresServer, new_postgres
from tests.short_paths import short_folder


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that other tests do not use."""
    with short_folder(for_other_users=True) as folder:
        server = new_postgres(folder)
        yield server
        server.stop()


@pytest.mark.spec("PG-13", "PG-14", "PG-20", "PG-21", "PG-26", "PG-40", "PG-41", "TXN-5", "TXN-9", "TXN-13", "TXN-22")
def test_clients_of_a_tormented_engine_have_a_serializable_history(server: PostgresServer) -> None:
    figures = run(server, server.address(), 60 if IS_DEEP else 4, seed=1)
    assert figures.violations == []
    assert figures.counts["committed"] > 0
    assert figures.counts.keys() >= {"kill sessions", "kill commits", "restart", "crash", "pack", "interrupt a pack"}


@pytest.mark.spec("PG-60", "PG-61", "PG-62", "PG-63", "PG-66", "TXN-5", "TXN-9", "TXN-13", "TXN-60")
def test_clients_of_killed_servers_have_a_serializable_history(server: PostgresServer) -> None:
    figures = run(server, server.address(), 60 if IS_DEEP else 4, seed=1, servers=2)
    assert figures.violations == []
    assert figures.counts["committed"] > 0
    assert figures.counts.keys() >= {"kill sessions", "kill a server", "restart", "crash", "pack"}


@pytest.mark.spec("PG-21", "PG-26", "TXN-5", "TXN-9", "TXN-13")
def test_a_bank_keeps_its_sum_and_each_transfer_that_was_acknowledged(server: PostgresServer) -> None:
    figures = bank(server, server.address(), 10_000 if IS_DEEP else 400, processes=8 if IS_DEEP else 2, seed=1)
    assert figures.violations == []
    assert figures.counts["transfers"] >= 400


@pytest.mark.spec("PG-14", "PG-21", "PG-26", "TXN-9", "TXN-13")
def test_a_bank_knows_each_outcome_when_the_network_fails(server: PostgresServer) -> None:
    figures = bank_over_network(server, 10_000 if IS_DEEP else 200, processes=8 if IS_DEEP else 2, seed=1)
    assert figures.violations == []
    assert figures.counts["transfers"] >= 200
    assert figures.counts["connections cut"] > 0
    assert figures.counts.keys() >= {"cut", "stall", "lose an answer", "deliver late", "pack"}


@pytest.mark.spec("PG-60", "PG-62", "PG-63", "PG-64", "TXN-5", "TXN-9", "TXN-13")
def test_a_bank_keeps_its_sum_when_servers_between_are_killed(server: PostgresServer) -> None:
    figures = bank(server, server.address(), 10_000 if IS_DEEP else 400, processes=8, seed=1, servers=2)
    assert figures.violations == []
    assert figures.counts["transfers"] + figures.counts["unknown"] >= 400
    assert figures.counts["kill a server"] > 0


@pytest.mark.spec("PG-13", "PG-17", "PG-26", "TXN-9", "TXN-13")
def test_a_bank_loses_nothing_when_a_synchronous_standby_takes_over() -> None:
    with short_folder(for_other_users=True) as folder:
        pair = Pair(folder, is_synchronous=True)
        figures = bank(pair, pair.address(), 2000 if IS_DEEP else 100, processes=8 if IS_DEEP else 2, seed=1)
        pair.stop()
    assert figures.violations == []
    assert figures.counts["transfers"] >= 100
    assert figures.counts["fail over"] > 0
