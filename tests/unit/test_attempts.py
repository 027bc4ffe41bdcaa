"""Trying again: run(), transactional, attempts(). spec/database.md, DB-20 to DB-23."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import durus
from durus.error import (
    ArgumentError,
    ConflictError,
    DisconnectedError,
    DurusError,
    OutcomeUnknownError,
    ServerUnreachableError,
    TransactionError,
)
from durus.pool import attempts
from tests.unit.databases import Root, in_threads

FOREVER: Any = object()


@pytest.fixture
def db() -> Iterator[durus.Database[Root]]:
    with durus.open("memory:") as database:
        database.run(lambda root: root.update(n=0))
        yield database


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The lengths of the pauses, which are not made."""
    found: list[float] = []
    monkeypatch.setattr(attempts, "_sleep", found.append)
    return found


class Failing:
    """Counts up, and raises these errors first, one each time."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, root: Root, by: int = 1) -> int:
        self.calls += 1
        root["n"] += by
        if self.errors:
            raise self.errors.pop(0)
        return int(root["n"])


def fail_in_attempts(db: durus.Database[Root], error: BaseException, tries: int | None = None) -> None:
    for attempt in db.attempts(tries):
        with attempt:
            raise error


def disturb(db: durus.Database[Root], root: Root) -> None:
    """Cause a conflict of the transaction of `root`: another thread commits a change of what it has read."""
    root["n"] += 1
    in_threads(1, lambda _: db.run(lambda other: other.update(m=other.get("m", 0) + 1)))


@pytest.mark.spec("DB-20")
@pytest.mark.parametrize(
    ("error", "pause_count"),
    [(ConflictError([bytes(8)]), 1), (DisconnectedError("gone"), 2), (ServerUnreachableError("no"), 2)],
)
def test_a_try_that_may_be_made_again_is(
    error: DurusError, pause_count: int, db: durus.Database[Root], pauses: list[float]
) -> None:
    count = Failing(error, error)
    assert db.run(count, 5) == 5
    assert (count.calls, len(pauses), db.stats().retries) == (3, pause_count, 2)


@pytest.mark.spec("DB-20")
@pytest.mark.parametrize(
    "error", [OutcomeUnknownError("gone"), ValueError("no"), TransactionError("no"), KeyboardInterrupt()]
)
def test_every_other_error_comes_out_at_once(
    error: BaseException, db: durus.Database[Root], pauses: list[float]
) -> None:
    count = Failing(error)
    with pytest.raises(type(error)) as found:
        db.run(count)
    assert found.value is error
    with pytest.raises(type(error)):
        fail_in_attempts(db, error)
    assert (count.calls, pauses) == (1, [])
    assert db.run(lambda root: root["n"]) == 0


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the clock tells, in one item."""
    now = [1000.0]
    monkeypatch.setattr(attempts, "_clock", lambda: now[0])
    return now


@pytest.mark.spec("DB-20", "DB-21", "DB-24")
@pytest.mark.parametrize(
    ("taken", "tries", "exclusive"),
    [(0.0501, 4, [0, 0, 0, 1]), (0.0499, 10, [0, 0, 1])],
    ids=["the last try is exclusive", "a quick transaction waits for its turn after two conflicts"],
)
def test_a_commit_in_conflict_is_tried_again(
    taken: float,
    tries: int,
    exclusive: list[int],
    db: durus.Database[Root],
    pauses: list[float],
    seconds: list[float],
) -> None:
    calls = []

    def work(root: Root) -> None:
        calls.append(db.stats().exclusive)
        if len(calls) < len(exclusive):
            disturb(db, root)
        root["n"] += 10
        seconds[0] += taken

    db.run(work, tries=tries)
    assert calls == exclusive
    assert db.run(lambda root: (root["n"], root["m"])) == (10, len(exclusive) - 1)


@pytest.mark.spec("DB-24")
def test_which_tries_are_exclusive(seconds: list[float]) -> None:
    def kinds(tries: attempts.Tries, *taken: float, error: DurusError | None = None) -> list[bool]:
        found = []
        for each in taken:
            found.append(tries.is_exclusive)
            seconds[0] += 1
            tries.begin_work()
            seconds[0] += each
            tries.end_work()
            seconds[0] += 1
            assert tries.goes_on(error or ConflictError())
        return [*found, tries.is_exclusive]

    assert kinds(attempts.Tries(9), 0.01, 0.02, 0.03, 0.01) == [False, False, True, True, True]
    assert kinds(attempts.Tries(9), 0.01, 0.06, 0.03, 0.01) == [False] * 5
    assert kinds(attempts.Tries(9), 0.01, 0.02, 0.06, 0.01) == [False, False, True, False, False]
    assert kinds(attempts.Tries(9), 0.01, 0.01, error=DisconnectedError()) == [False] * 3
    assert kinds(attempts.Tries(9, has_turns=False), 0.01, 0.02, 0.03) == [False] * 4
    assert kinds(attempts.Tries(3, has_turns=False), 1.0, 1.0) == [False, False, True]
    assert kinds(attempts.Tries(1)) == [False]


@pytest.mark.spec("DB-26")
def test_calls_after_one_with_conflicts_are_exclusive_from_their_first_try(
    db: durus.Database[Root], pauses: list[float], seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_EXCLUSIVE_IN_A_ROW", 3)
    conflicts, taken = 2, 0.01

    def count(root: Root) -> None:
        nonlocal conflicts
        root["n"] += 1
        seconds[0] += taken
        if conflicts:
            conflicts -= 1
            raise ConflictError()

    def exclusive(function: Any) -> int:
        before = db.stats().exclusive
        function()
        return db.stats().exclusive - before

    counting = db.transactional(count)
    assert exclusive(counting) == 1
    assert len(pauses) == 1, "a try that waits in line does not wait before"
    assert exclusive(lambda: db.run(lambda root: root["n"])) == 0, "another function"
    assert [exclusive(counting) for _ in range(5)] == [1, 1, 1, 0, 0]
    conflicts = 2
    assert [exclusive(lambda: db.run(count)) for _ in range(2)] == [1, 1]
    taken = 0.06
    assert [exclusive(counting) for _ in range(2)] == [1, 0], "it would hold others up"
    conflicts, taken = 2, 0.01
    assert exclusive(lambda: db.run(functools.partial(count))) == 1
    assert exclusive(lambda: db.run(functools.partial(count))) == 0, "what has no code is not known again"
    assert exclusive(lambda: db.run(count, tries=1)) == 0
    assert db.run(lambda root: root["n"]) == 13


@pytest.mark.spec("DB-26")
def test_functions_with_the_same_decorator_are_told_apart() -> None:
    def logged(function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def wrapper(*arguments: object) -> object:
            return function(*arguments)

        return wrapper

    class Shop:
        @logged
        def sell(self) -> None: ...

        @logged
        @logged
        def look(self) -> None: ...

    contention, tries = attempts.Contention(), attempts.Tries(9)
    for _ in range(2):
        assert tries.goes_on(ConflictError())
    contention.note(Shop().sell, tries)
    assert not contention.expects(Shop().look)
    assert contention.expects(Shop().sell)
    assert contention.expects(Shop.sell)


@pytest.mark.spec("DB-26")
def test_not_more_than_so_many_functions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_MAX_REMEMBERED", 2)
    contention, tries = attempts.Contention(), attempts.Tries(9)
    for _ in range(2):
        assert tries.goes_on(ConflictError())
    functions = [eval(f"lambda: {number}") for number in range(3)]
    for function in functions:
        contention.note(function, tries)
    assert [contention.expects(function) for function in functions] == [False, False, True]


@pytest.mark.spec("DB-21")
def test_a_lost_connection_is_followed_by_a_pause_in_any_try(db: durus.Database[Root], pauses: list[float]) -> None:
    db.run(Failing(ConflictError(), ConflictError(), DisconnectedError("gone")))
    assert len(pauses) == 2


@pytest.mark.spec("DB-21")
def test_no_more_than_so_many_tries_are_made(db: durus.Database[Root], pauses: list[float]) -> None:
    errors = [ConflictError([bytes([number] * 8)]) for number in range(20)]
    count = Failing(*errors)
    with pytest.raises(ConflictError) as found:
        db.run(count, tries=3)
    assert (found.value, count.calls) == (errors[2], 3)
    with pytest.raises(ConflictError):
        db.run(count)
    assert count.calls == 13
    for tries in 0, -1, True, "3":
        with pytest.raises(ArgumentError, match="tries is"):
            db.run(count, tries=tries)  # type: ignore[arg-type]  # that is what is tested


@pytest.mark.spec("DB-21")
def test_one_try_is_not_exclusive(db: durus.Database[Root]) -> None:
    assert db.run(Failing(), tries=1) == 1
    assert db.stats().exclusive == 0


@pytest.mark.spec("DB-21")
def test_pauses_grow_and_are_random(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    for chance in 0.5, 0.75:
        monkeypatch.setattr(attempts, "_chance", lambda chance=chance: chance)
        for number in range(2, 13):
            attempts.pause(ConflictError(), number)
        for number in range(2, 13):
            attempts.pause(DisconnectedError(), number)
    half, most = pauses[:22], pauses[22:]
    assert half[:11] == pytest.approx([min(0.1, 0.001 * 2**n) / 2 for n in range(11)])
    assert half[11:] == pytest.approx([min(2, 0.05 * 2**n) * 0.75 for n in range(11)])
    assert all(one != other for one, other in zip(half, most, strict=True))


@pytest.mark.spec("DB-22")
def test_the_block_of_an_attempt_is_tried_again(
    db: durus.Database[Root], pauses: list[float], seconds: list[float]
) -> None:
    tries = 0
    for attempt in db.attempts(5):
        with attempt as root:
            tries += 1
            seconds[0] += 1  # so that a later try is not exclusive
            if tries == 1:
                raise ConflictError([bytes(8)])
            if tries == 2:
                disturb(db, root)
            if tries == 3:
                disturb(db, root)
                continue
    assert (tries, len(pauses)) == (4, 3)
    with db.transaction() as root:
        assert root["m"] == 2


@pytest.mark.spec("DB-21", "DB-22")
def test_the_last_attempt_is_exclusive_and_its_error_comes_out(db: durus.Database[Root], pauses: list[float]) -> None:
    error = ConflictError([bytes(8)])
    with pytest.raises(ConflictError) as found:
        fail_in_attempts(db, error, 3)
    assert found.value is error
    assert (db.stats().exclusive, db.stats().transactions, len(pauses)) == (1, 4, 2)


def returns(db: durus.Database[Root]) -> object:
    for attempt in db.attempts():
        with attempt as root:
            disturb(db, root)
            return root["n"]
    return None


def breaks(db: durus.Database[Root]) -> object:
    for attempt in db.attempts():
        with attempt as root:
            disturb(db, root)
            break
    return None


def goes_on(db: durus.Database[Root]) -> object:
    done = []
    for attempt in db.attempts():
        with attempt as root:
            disturb(db, root)
        done.append(1)
    return None


@pytest.mark.spec("DB-22")
@pytest.mark.parametrize("function", [returns, breaks, goes_on])
def test_a_conflict_is_not_passed_over_where_a_block_does_not_go_round(
    function: Callable[[durus.Database[Root]], object], db: durus.Database[Root], pauses: list[float]
) -> None:
    with pytest.raises(ConflictError) as found:
        function(db)
    assert "was left by return or break" in found.value.__notes__[0]
    assert pauses == []
    assert db.run(lambda root: root["n"]) == 0


@pytest.mark.spec("DB-22")
def test_a_block_without_a_conflict_may_return(db: durus.Database[Root]) -> None:
    def work() -> int:
        for attempt in db.attempts():
            with attempt as root:
                root["n"] += 1
                return int(root["n"])
        return -1

    assert work() == 1
    assert db.run(lambda root: root["n"]) == 1


def test_an_attempt_has_to_be_used(db: durus.Database[Root]) -> None:
    with pytest.raises(TransactionError, match="an attempt was not used"):
        for _ in db.attempts():
            pass
    attempt = next(iter(db.attempts()))
    with pytest.raises(TransactionError, match="has not begun"):
        attempt.__exit__(None, None, None)


@pytest.mark.spec("DB-20")
def test_a_transaction_that_can_not_begin_is_tried_again(
    db: durus.Database[Root], pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    take, errors = db._take, [DisconnectedError("gone"), ServerUnreachableError("not yet")]

    def take_later(kind: Any) -> Any:
        if errors:
            raise errors.pop()
        return take(kind)

    monkeypatch.setattr(db, "_take", take_later)
    for attempt in db.attempts():
        with attempt as root:
            root["n"] += 1
    errors += [DisconnectedError("gone")] * 2
    assert db.run(Failing()) == 2
    errors += [DisconnectedError("gone")] * 2
    with pytest.raises(DisconnectedError):
        fail_in_attempts(db, AssertionError(), 2)
    assert len(pauses) == 2 + 2 + 1


@pytest.mark.spec("DB-20")
def test_a_transactional_function_is_called_without_the_root(db: durus.Database[Root], pauses: list[float]) -> None:
    failing = Failing(ConflictError(), ConflictError())

    @db.transactional
    def count(root: Root, by: int, *, times: int = 1) -> int:
        """Count."""
        return failing(root, by * times)

    assert count(2, times=3) == 6
    assert (count.__name__, count.__doc__, failing.calls) == ("count", "Count.", 3)

    @db.transactional(tries=2)
    def fail(root: Root) -> int:
        return Failing(ConflictError())(root)

    with pytest.raises(ConflictError):
        fail()
    with db.transaction() as root:
        with pytest.raises(TransactionError, match="__wrapped__"):
            count(1)
        count.__wrapped__(root, 1)  # type: ignore[attr-defined]  # wraps() does not tell
        assert root["n"] == 7
    with pytest.raises(ArgumentError):
        db.transactional(tries=0)


@pytest.mark.parametrize("wrong", [None, 5, "count"])
def test_what_is_no_function_is_refused(db: durus.Database[Root], wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=r"run\(\) was given .*, and needs a function that takes the root"):
        db.run(wrong)
    if wrong is not None:
        with pytest.raises(ArgumentError, match=r"transactional\(\) was given .* the number of tries as tries=\.\.\."):
            db.transactional(wrong)
    assert db.stats().transactions == 1


@pytest.mark.spec("DB-23")
def test_a_function_that_would_run_later_is_refused(db: durus.Database[Root]) -> None:
    async def coroutine(root: Root) -> None:
        root["n"] += 1

    def generator(root: Root) -> Iterator[int]:
        root["n"] += 1
        yield 1

    async def both(root: Root) -> AsyncIterator[int]:
        yield 1

    for function in coroutine, generator, both:
        with pytest.raises(ArgumentError, match="the function returned"):
            db.run(function)
    assert db.run(lambda root: root["n"]) == 0


@pytest.mark.spec("DB-23")
def test_run_async_works_in_another_thread(db: durus.Database[Root]) -> None:
    threads = set()

    def count(root: Root, by: int) -> int:
        threads.add(threading.get_ident())
        root["n"] += by
        return int(root["n"])

    async def work() -> list[int]:
        return await asyncio.gather(*(db.run_async(count, 2) for _ in range(20)))

    assert sorted(asyncio.run(work())) == list(range(2, 42, 2))
    assert threading.get_ident() not in threads


@pytest.mark.spec("DB-21")
def test_in_a_task_the_last_attempt_of_a_block_is_like_the_others(
    db: durus.Database[Root], pauses: list[float]
) -> None:
    async def work() -> None:
        for attempt in db.attempts(2):
            with attempt as root:
                if not pauses:
                    disturb(db, root)
                root["n"] += 1

    asyncio.run(work())
    assert (db.stats().exclusive, len(pauses)) == (0, 1)


@pytest.mark.spec("DB-21")
def test_a_server_that_stays_away_is_not_asked_as_often_as_conflicts_are_tried() -> None:
    lost, conflicts = attempts.Tries(100), attempts.Tries(100)
    while lost.goes_on(DisconnectedError()):
        pass
    while conflicts.goes_on(ConflictError()):
        pass
    assert (lost.number, conflicts.number) == (10, 100)
    assert not attempts.Tries(2).goes_on(LookupError())
