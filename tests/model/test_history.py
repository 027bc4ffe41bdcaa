"""The history checker finds each anomaly in a hand-made history that has it, and nothing in a clean one."""

import random

import pytest

from tests.model.history import INITIAL, Anomaly, Id, Key, Outcome, Transaction, anomalies

A, B, C, D = (1, 1), (2, 1), (3, 1), (4, 1)


def transaction(
    id: Id,
    reads: dict[Key, Id] | None = None,
    writes: dict[Key, Id] | None = None,
    outcome: Outcome = "committed",
    time: tuple[float, float] = (0, 100),
) -> Transaction:
    return Transaction(id, *time, outcome, list((reads or {}).items()), writes or {})


def kinds(*history: Transaction) -> set[str]:
    return {anomaly.kind for anomaly in anomalies(history)}


def cycles(*history: Transaction) -> list[Anomaly]:
    return [anomaly for anomaly in anomalies(history) if anomaly.kind == "cycle"]


# Clean histories


def test_nothing_and_a_chain_of_updates_are_clean() -> None:
    assert kinds() == set()
    history = [
        transaction((1, n), writes={"x": (1, n - 1) if n > 1 else INITIAL}, time=(n, n + 0.5)) for n in (1, 2, 3)
    ]
    assert kinds(*history, transaction(B, {"x": (1, 3)}, time=(9, 10))) == set()


def test_overlapping_transactions_may_come_in_any_one_order() -> None:
    writer = transaction(A, writes={"x": INITIAL, "y": INITIAL})
    assert kinds(writer, transaction(B, {"x": INITIAL, "y": INITIAL})) == set()
    assert kinds(writer, transaction(B, {"x": A, "y": A})) == set()


def test_a_refused_transaction_has_written_nothing() -> None:
    refused = transaction(B, {"x": INITIAL}, {"x": INITIAL}, "aborted")
    assert kinds(transaction(A, writes={"x": INITIAL}), refused, transaction(C, {"x": A}, time=(200, 300))) == set()


def test_an_unknown_outcome_may_be_either() -> None:
    unknown = transaction(A, writes={"x": INITIAL, "y": INITIAL}, outcome="unknown", time=(0, 1))
    assert kinds(unknown, transaction(B, {"x": INITIAL}, time=(2, 3))) == set()
    assert kinds(unknown, transaction(B, {"x": A, "y": A}, time=(2, 3))) == set()
    assert kinds(unknown, transaction(B, writes={"x": INITIAL}, time=(2, 3))) == set()
    late = transaction(C, {"x": A}, time=(4, 5))
    assert kinds(unknown, transaction(B, {"x": INITIAL}, time=(2, 3)), late) == set()


# Anomalies


def test_lost_update() -> None:
    one, other = transaction(A, writes={"x": INITIAL}), transaction(B, writes={"x": INITIAL})
    (found,) = [each for each in anomalies([one, other]) if each.kind == "lost update"]
    assert set(found.transactions) == {A, B}


def test_update_lost_to_an_unknown_outcome_that_was_seen_stored() -> None:
    unknown = transaction(A, writes={"x": INITIAL, "y": INITIAL}, outcome="unknown")
    other = transaction(B, writes={"x": INITIAL})
    assert "lost update" in kinds(unknown, other, transaction(C, {"y": A}))


def test_stale_read() -> None:
    writer = transaction(A, writes={"x": INITIAL}, time=(0, 1))
    assert "stale read" in kinds(writer, transaction(B, {"x": INITIAL}, time=(2, 3)))
    assert kinds(writer, transaction(B, {"x": INITIAL}, time=(0.9, 3))) == set()


def test_stale_read_of_what_an_unknown_outcome_replaced_first() -> None:
    unknown = transaction(A, writes={"x": INITIAL}, outcome="unknown", time=(0, 1))
    writer = transaction(B, writes={"x": A}, time=(1, 2))
    assert "stale read" in kinds(unknown, writer, transaction(C, {"x": INITIAL}, time=(3, 4)))


def test_stale_write() -> None:
    writer = transaction(A, writes={"x": INITIAL}, time=(0, 1))
    assert "stale read" in kinds(writer, transaction(B, writes={"x": INITIAL}, outcome="aborted", time=(2, 3)))


def test_acknowledged_commit_that_is_lost() -> None:
    writer = transaction(A, writes={"x": INITIAL}, time=(0, 1))
    assert kinds(writer, transaction(B, {"x": INITIAL}, time=(5, 6))) == {"stale read", "cycle"}


def test_dirty_read() -> None:
    assert kinds(transaction(A, {"x": B})) == {"dirty read"}
    assert kinds(transaction(A, {"x": B}), transaction(B, writes={"y": INITIAL})) == {"dirty read"}
    assert kinds(transaction(A, writes={"x": B})) == {"dirty read"}


def test_aborted_read() -> None:
    assert kinds(transaction(A, {"x": B}), transaction(B, writes={"x": INITIAL}, outcome="aborted")) == {"aborted read"}


def test_unrepeatable_read() -> None:
    reader = Transaction(B, 0, 100, "committed", [("x", INITIAL), ("x", A)], {})
    assert "unrepeatable read" in kinds(transaction(A, writes={"x": INITIAL}), reader)
    torn = Transaction(B, 0, 100, "committed", [("x", INITIAL)], {"x": A})
    assert "unrepeatable read" in kinds(transaction(A, writes={"x": INITIAL}), torn)


def test_write_skew() -> None:
    one = transaction(A, {"x": INITIAL, "y": INITIAL}, {"x": INITIAL})
    other = transaction(B, {"x": INITIAL, "y": INITIAL}, {"y": INITIAL})
    (found,) = cycles(one, other)
    assert set(found.transactions) == {A, B}
    assert "read [x] before" in found.what
    assert "read [y] before" in found.what


def test_half_of_a_commit_seen() -> None:
    (found,) = cycles(transaction(A, writes={"x": INITIAL, "y": INITIAL}), transaction(B, {"x": A, "y": INITIAL}))
    assert set(found.transactions) == {A, B}


def test_half_of_a_commit_seen_by_a_transaction_that_was_refused() -> None:
    reader = transaction(B, {"x": A, "y": INITIAL}, outcome="aborted")
    assert cycles(transaction(A, writes={"x": INITIAL, "y": INITIAL}), reader)


def test_two_readers_that_saw_two_writes_in_opposite_order() -> None:
    history = [
        transaction(A, writes={"x": INITIAL}),
        transaction(B, writes={"y": INITIAL}),
        transaction(C, {"x": A, "y": INITIAL}),
        transaction(D, {"x": INITIAL, "y": B}),
    ]
    (found,) = cycles(*history)
    assert set(found.transactions) == {A, B, C, D}


def test_two_writers_that_replaced_each_other() -> None:
    (found,) = cycles(transaction(A, writes={"x": B, "y": INITIAL}), transaction(B, writes={"x": INITIAL, "y": A}))
    assert "[y] was replaced by" in found.what


def test_later_writes_seen_without_earlier_ones() -> None:
    """No single read is stale: the version that the reader missed was never read where it was replaced."""
    first = transaction(A, writes={"x": INITIAL}, outcome="committed", time=(0, 1))
    second = transaction(B, writes={"y": INITIAL}, time=(2, 3))
    (found,) = cycles(first, second, transaction(C, {"x": INITIAL, "y": B}, time=(0, 9)))
    assert "was acknowledged before" in found.what


def test_each_of_several_cycles_is_told() -> None:
    pairs = [
        (
            transaction((1, n), {f"y{n}": INITIAL}, {f"x{n}": INITIAL}),
            transaction((2, n), {f"x{n}": INITIAL}, {f"y{n}": INITIAL}),
        )
        for n in range(1, 6)
    ]
    found = cycles(*[each for pair in pairs for each in pair])
    assert sorted(sorted(each.transactions) for each in found) == [[(1, n), (2, n)] for n in range(1, 6)]


def test_ids_must_be_unique() -> None:
    with pytest.raises(ValueError, match="unique"):
        anomalies([transaction(A), transaction(A)])


# Large histories


def serial_history(count: int, seed: int) -> list[Transaction]:
    """The history of a machine that runs one transaction at a time, as its clients see it: they overlap."""
    chance = random.Random(seed)
    current: dict[Key, Id] = {}
    history = []
    for n in range(1, count + 1):
        id = (n % 7 + 1, n)
        reads = {f"k{chance.randrange(200)}": INITIAL for _ in range(chance.randrange(5))}
        reads = {key: current.get(key, INITIAL) for key in reads}
        writes = {key: current.get(key, INITIAL) for key in {f"k{chance.randrange(200)}" for _ in range(3)}}
        outcome: Outcome = chance.choice(["committed", "committed", "committed", "aborted", "unknown"])
        if outcome == "committed" or (outcome == "unknown" and chance.random() < 0.5):
            current.update(dict.fromkeys(writes, id))
        history.append(transaction(id, reads, writes, outcome, (n - chance.random() * 5, n + chance.random() * 5)))
    return history


@pytest.mark.parametrize("seed", range(20))
def test_a_large_history_is_clean_and_one_wrong_read_in_it_is_found(seed: int) -> None:
    history = serial_history(1000, seed)
    assert anomalies(history) == []
    chance = random.Random(seed)
    place, key = chance.choice(
        [(n, key) for n, each in enumerate(history) if n > 300 for key, before in each.reads if before != INITIAL]
    )
    history[place] = history[place]._replace(reads=[(key, INITIAL)])
    assert {"stale read", "cycle"} <= kinds(*history)
