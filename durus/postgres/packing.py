"""Removes what the root does not reach, in small transactions of the engine. Statements PG-40 to PG-44.

All that a pack knows is in the tables `pack` and `mark`, so that any client can continue with one that was interrupted,
and several clients can do its steps. Each step locks the row of the pack.

    mark     follow the references of what is marked, in the order in which it was marked, from the root on;
             and those of everything that was committed meanwhile, which is marked, too
    flip     the same under the lock of the head, until nothing is left: then rows without a mark have no record any
             more, for commits
    sweep    delete these rows, some at a time, and tell the clients
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn, Protocol, TypeVar
from uuid import uuid4

from durus.error import ServerError
from durus.oid import oid_from_int
from durus.postgres.link import Postponed, Rows, Step
from durus.postgres.statements import Statements
from durus.progress import Progress
from durus.records.reachable import dangling_reference_error

T = TypeVar("T")

_BATCH = 1000
"""How many objects one step follows or removes, about."""
_BATCH_REFS = 20_000
"""After how many references a step ends, even if it has followed fewer objects."""
_FOLLOW_EVERY = 50
"""After how many batches changes are followed, which must happen before the log of changes forgets them."""
_LOCKED_BATCHES = 5
"""How many batches the flip follows under the lock of the head."""
_FLIPS = 10
"""How often the flip gives the lock up, because too much was committed meanwhile, before it keeps it."""
_PATIENCE = 60.0
"""For how many seconds a step is tried again."""


class _State(NamedTuple):
    """The row of the pack."""

    from_tid: int
    step: int
    after: int
    followed_tid: int
    followed_oid: int
    swept: int


class Run(Protocol):
    """Runs statements in one round trip, and returns the rows of each; Postponed, or a DurusError."""

    def __call__(self, *steps: Step) -> list[Rows]: ...


class _Ended(Exception):
    """The row of the pack is gone: another client has ended it."""


class _Outpaced(Exception):
    """The log no longer has all that was committed since the pack began."""


def gen_pack(run: Run, roll_back: Callable[[], object], sql: Statements, name: str) -> Iterator[Progress]:
    """Pack, or continue with a pack that was interrupted. Each yield ends a step.

    FormatError if a reference leads to no object: then nothing is removed.
    """
    while True:
        pack = _Pack(run, roll_back, sql, name)
        try:
            yield from pack.steps()
        except _Ended:
            return
        except _Outpaced:
            pack.attempt(pack.discard)
            continue
        return


class _Pack:
    def __init__(self, run: Run, roll_back: Callable[[], object], sql: Statements, name: str) -> None:
        self._run = run
        self._roll_back = roll_back
        self._sql = sql
        self._name = name
        self._marked = 0

    def steps(self) -> Iterator[Progress]:
        yield Progress("mark", 0, None)
        self.attempt(self._begin)
        if not self._is_sweeping():
            for number in range(_FLIPS):
                yield from self._mark_all()
                if self.attempt(self._flip if number < _FLIPS - 1 else self._flip_at_last):
                    break
        removed = 0
        while (count := self.attempt(self._sweep)) is not None:
            removed += count
            yield Progress("remove", removed, None)
        self.attempt(self._end)

    def _mark_all(self) -> Iterator[Progress]:
        number = 0
        # A few changes are left to the flip: with a commit between any two steps, there would always be some.
        while self.attempt(self._mark) or self.attempt(self._follow) >= _BATCH:
            number += 1
            if number % _FOLLOW_EVERY == 0:
                self.attempt(self._follow)
            yield Progress("mark", self._marked, None)

    def attempt(self, step: Callable[[], T]) -> T:
        """Do a step, again while the engine asks for that."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return step()
            except Postponed as error:
                if time.monotonic() > deadline:
                    raise ServerError(f"{self._name} did not let a pack continue: {error}") from error
            except (_Ended, _Outpaced):
                self._roll_back()
                raise

    def _begin_step(self, *more: Step) -> tuple[_State, list[Rows]]:
        """Begin a transaction of the engine, and lock the row of the pack."""
        sql = self._sql
        head = ((sql.begin, ()), (sql.lock_timeout, ()), (sql.idle_timeout, ()), (sql.lock_pack, ()))
        answers = self._run(*head, *more)
        if not answers[3]:
            raise _Ended
        return _State(*answers[3][0]), answers[4:]

    def _begin(self) -> None:
        sql = self._sql
        (*_, made) = self._run((sql.begin, ()), (sql.lock_timeout, ()), (sql.idle_timeout, ()), (sql.begin_pack, ()))
        if made:
            self._run((sql.clear_marks, ()), (sql.mark_root, ()), (sql.commit, ()))
        else:
            self._roll_back()

    def _is_sweeping(self) -> bool:
        ((_, sweep_tid),) = self._run((self._sql.log_from, ()))[0]
        return bool(sweep_tid)

    def discard(self) -> None:
        """Forget the pack, unless it has begun to remove, so that the next one starts over."""
        sql = self._sql
        *_, log = self._run((sql.begin, ()), (sql.lock_timeout, ()), (sql.lock_pack, ()), (sql.log_from, ()))
        if log[0][1]:
            self._roll_back()
        else:
            self._run((sql.end_pack, ()), (sql.commit, ()))

    def _mark(self, ends: bool = True) -> bool:
        """Follow some of what is marked; returns whether there was anything."""
        sql = self._sql
        next_marks = sql.next_marks, (_BATCH,)
        (marks,) = self._begin_step(next_marks)[1] if ends else self._run(next_marks)
        if not marks:
            if ends:
                self._roll_back()
            return False
        counts: dict[int, int] = dict(self._run((sql.count_refs, ([oid for _, oid in marks],)))[0])
        oids: list[int] = []
        refs = 0
        for _, oid in marks:
            if oid not in counts:
                self._give_up(oid)
            oids.append(oid)
            refs += counts[oid]
            if refs >= _BATCH_REFS:
                break
        step = marks[len(oids) - 1][0]
        self._run(
            (sql.mark_refs, (step + 1, oids)),
            (sql.note_marked, (step, oids[-1])),
            *([(sql.commit, ())] if ends else []),
        )
        self._marked += len(oids)
        return True

    def _give_up(self, missing: int) -> NoReturn:
        """End the pack, because an object that is reached does not exist. [PG-44]"""
        self._roll_back()  # of the flip, too, which has raised the number of the head
        self.discard()
        found = self._run((self._sql.referrer, (missing,)))[0]
        raise dangling_reference_error(oid_from_int(found[0][0] if found else 0), oid_from_int(missing))

    def _follow(self, ends: bool = True, state: _State | None = None) -> int:
        """Mark some of what was committed since the pack began, and what that refers to; return how many changes."""
        sql = self._sql
        if state is None:
            state, _ = self._begin_step()
        log, changes = self._run(
            (sql.log_from, ()), (sql.next_changes, (state.followed_tid, state.followed_oid, _BATCH))
        )
        if log[0][0] > state.followed_tid:
            raise _Outpaced
        if not changes:
            if ends:
                self._roll_back()
            return 0
        oids = sorted({oid for _, oid in changes})
        self._run(
            (sql.mark_oids, (state.step + 1, oids)),
            (sql.mark_refs, (state.step + 1, oids)),
            (sql.note_followed, changes[-1]),
            *([(sql.commit, ())] if ends else []),
        )
        return len(changes)

    def _flip_at_last(self) -> bool:
        return self._flip(is_last=True)

    def _flip(self, is_last: bool = False) -> bool:
        """Under the lock of the head, follow the rest; then have rows without a mark lose their records.

        False if there is too much to follow, and it is not the last try.
        """
        sql = self._sql
        state, _ = self._begin_step((sql.take_head, ()))
        batches = 0
        while is_last or batches < _LOCKED_BATCHES:
            if not (self._follow(False, state) or self._mark(False)):
                self._run((sql.begin_sweep, (state.from_tid,)), (sql.add_txn, (uuid4(),)), (sql.commit, ()))
                return True
            (row,) = self._run((sql.lock_pack, ()))[0]
            state = _State(*row)
            batches += 1
        self._run((sql.add_txn, (uuid4(),)), (sql.commit, ()))
        return False

    def _sweep(self) -> int | None:
        """Delete some rows without a mark, and tell the clients; return how many, None if all rows were looked at."""
        sql = self._sql
        state, (((end,),),) = self._begin_step((sql.window_end, (2 * _BATCH,)))
        if end is None:
            self._roll_back()
            return None
        window = state.swept, end
        garbage = [oid for (oid,) in self._run((sql.garbage, (*window, state.from_tid, *window)))[0]]
        steps: list[Step] = [(sql.note_swept, (end,)), (sql.commit, ())]
        if garbage:
            told = (sql.add_changes, (garbage,)), (sql.add_txn, (uuid4(),))
            steps = [(sql.take_head, ()), (sql.remove, (garbage,)), *told, *steps]
        self._run(*steps)
        return len(garbage)

    def _end(self) -> None:
        sql = self._sql
        self._begin_step((sql.take_head, ()))
        self._run(
            (sql.begin_sweep, (0,)),
            (sql.end_pack, ()),
            (sql.clear_marks, ()),
            (sql.add_txn, (uuid4(),)),
            (sql.commit, ()),
        )
