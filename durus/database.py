"""Database: what a program opens, and shares between its threads, tasks and processes. spec/database.md."""

import functools
import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    NamedTuple,
    ParamSpec,
    Self,
    TypeVar,
    TypeVarTuple,
    cast,
    overload,
)

from durus.connection import Connection, _Block, current_task
from durus.error import ArgumentError, ClosedError, DurusError, ReadonlyError, TransactionError
from durus.persistent import PersistentObject
from durus.pool.attempts import Tries, goes_round, may_try_again, pause
from durus.pool.connections import PooledConnection, SnapshotConnection
from durus.pool.engines import Engine
from durus.progress import Progress
from durus.transactions.unnoted import Debug

R = TypeVar("R", bound=PersistentObject)
T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

_MAX_IDLE = 64
"""How many connections of each kind are kept while nobody uses them."""
_Kind = Literal["transaction", "snapshot"]
_databases: "weakref.WeakSet[Database[PersistentObject]]" = weakref.WeakSet()
surrounding: "ContextVar[tuple[Transaction[Any], ...]]" = ContextVar("durus.surrounding", default=())
"""The transactions with an owner of their own in which this context works, the innermost last. [WEB-8]"""


class Stats(NamedTuple):
    """What a Database has done in this process since it was opened, or since the fork."""

    transactions: int
    """How many transactions and snapshots have ended."""
    retries: int
    """How many tries were made again after a conflict or a lost connection."""
    exclusive: int
    """How many transactions took their turn first, the last tries among them."""
    connections: int
    """How many connections are open, those that nobody uses at the moment among them."""
    idle: int
    """How many of them nobody uses at the moment."""


class Database(Generic[R]):
    """The objects of one file, server or memory, for all threads and tasks of a process, and its children.

    durus.open() makes it. Each transaction has a connection of its own while it lasts, so threads need no lock of
    theirs; what a transaction gives is for its thread, and for as long as it lasts. [DB-10] [DB-30]
    """

    def __init__(
        self,
        engine: Engine,
        *,
        root_class: type[R] | None = None,
        cache_size: int = 100_000,
        cache_bytes: int | None = None,
        tries: int | None = None,
        readonly: bool = False,
        name: str = "database",
        debug: Debug | None = None,
    ) -> None:
        """Open the database that `engine` leads to; the rest as open() has it. Errors as its storages have."""
        self._name = name
        self._engine = engine
        self._root_class = root_class
        self._cache_size = _at_least_one("cache_size", cache_size)
        self._cache_bytes = None if cache_bytes is None else _at_least_one("cache_bytes", cache_bytes)
        self._debug = debug
        self._readonly = readonly
        self._is_closed = False
        self._packing: threading.Thread | None = None
        self._begin_process()
        self._tries = 1 if tries is None else _at_least_one("tries", tries)
        self._give_back(self._take("snapshot" if readonly else "transaction"))
        if tries is None:
            self._tries = engine.default_tries  # which a server tells with the first connection
        _databases.add(cast("Database[PersistentObject]", self))

    def _begin_process(self) -> None:
        """Begin to work in this process, with nothing that another one has."""
        self._idle: dict[_Kind, list[PooledConnection[R]]] = {"transaction": [], "snapshot": []}
        self._connections: weakref.WeakSet[PooledConnection[R]] = weakref.WeakSet()
        self._open: weakref.WeakValueDictionary[object, Transaction[R]] = weakref.WeakValueDictionary()
        """The transaction of each thread, or task, that has one open."""
        self._counts = dict.fromkeys(("transactions", "retries", "exclusive"), 0)

    def __repr__(self) -> str:
        return f"<Database {self._name}{', closed' if self._is_closed else ''}>"

    # Transactions

    def transaction(self, exclusive: bool = False) -> AbstractContextManager[R]:
        """Run a block as one transaction on the root: commit at its end, abort if it raises. [DB-10]

        With exclusive=True it takes its turn to commit before it reads: it has no conflict, and all others wait with
        their commits until it ends. [DB-12] To a server of another process that holds among the threads of this one
        only. [DB-14]

        TransactionError if this thread, or task of asyncio, has one open already, or for exclusive=True in a task;
        ConflictError at the end, if others have changed what the block used: run() tries it again.
        """
        if exclusive and current_task() is not None:
            raise TransactionError(
                "an exclusive transaction in a task of asyncio would keep all tasks waiting while it waits for "
                "something: use `await db.run_async(function)`, whose last try is exclusive"
            )
        return Transaction(self, "snapshot" if self._readonly else "transaction", exclusive and not self._readonly)

    def snapshot(self) -> AbstractContextManager[R]:
        """Run a block that reads one state of the database, whatever others commit meanwhile. [DB-15]

        A change in it raises ReadonlyError. On a file or in memory it has no conflicts, and holds nobody up; over a
        network it is a transaction without changes, which may raise ReadConflictError. [DB-16]
        """
        return Transaction(self, "snapshot", False)

    def run(self, function: Callable[[R, *Ts], T], /, *args: *Ts, tries: int | None = None) -> T:
        """Call function(root, *args) in a transaction, again if it has a conflict, and return what it returns.

        So it is called several times, and must do nothing that can't be done again but to persistent objects; of each
        call but the last one nothing is stored. It is called `tries` times at the most, by default as often as the
        database was told; the last time in an exclusive transaction. [DB-20] [DB-21]

        Errors of the function, and of the last try, come out as they are. OutcomeUnknownError is not tried again.
        """
        attempts = self.new_tries(tries)
        while True:
            try:
                with self.new_try(attempts.is_last) as root:
                    return _plain(function(root, *args))
            except DurusError as error:
                if not self.tries_again(attempts, error):
                    raise
                pause(error, attempts.number)

    async def run_async(self, function: Callable[[R, *Ts], T], /, *args: *Ts, tries: int | None = None) -> T:
        """Do what run() does in a thread of its own, so that other tasks of asyncio go on. [DB-23]

        `function` is a plain function. If the task is cancelled, the call goes on to its end, and may commit.
        """
        import asyncio  # only where the application has done so

        return await asyncio.to_thread(functools.partial(self.run, function, *args, tries=tries))

    @overload
    def transactional(self, function: Callable[Concatenate[R, P], T], /) -> Callable[P, T]: ...
    @overload
    def transactional(self, /, *, tries: int) -> Callable[[Callable[Concatenate[R, P], T]], Callable[P, T]]: ...
    def transactional(
        self, function: Callable[Concatenate[R, P], T] | None = None, /, *, tries: int | None = None
    ) -> Callable[P, T] | Callable[[Callable[Concatenate[R, P], T]], Callable[P, T]]:
        """Make run() a part of a function, which is called without the root from then on.

            @db.transactional
            def add(root: PersistentDict[str, Any], name: str) -> None: ...

            add("Ann")

        The function as it was is its `__wrapped__`, for use inside of other transactions.
        """
        if tries is not None:
            _at_least_one("tries", tries)

        def decorate(function: Callable[Concatenate[R, P], T]) -> Callable[P, T]:
            @functools.wraps(function)
            def transactional(*args: P.args, **kwargs: P.kwargs) -> T:
                return self.run(lambda root: function(root, *args, **kwargs), tries=tries)

            return transactional

        return decorate if function is None else decorate(function)

    def attempts(self, tries: int | None = None) -> Iterator[AbstractContextManager[R]]:
        """Do what run() does for a block. [DB-22]

            for attempt in db.attempts():
                with attempt as root:
                    root["n"] += 1

        The block is all that stands in the loop, and is not left by `return` or `break`: where it is, a conflict
        is raised and not tried again. In a task of asyncio the last try is one like the others.
        """
        attempt = _Attempt(self, self.new_tries(tries))
        while not attempt.is_over:
            number = attempt.tries.number
            yield attempt
            if not attempt.is_over and attempt.tries.number == number:
                raise TransactionError("an attempt was not used: begin it with `with attempt as root:`")

    def new_tries(self, limit: int | None = None) -> Tries:
        """Return what counts the tries of one more transaction, for what makes its own loop of new_try()."""
        return Tries(self._tries if limit is None else _at_least_one("tries", limit))

    def tries_again(self, tries: Tries, error: BaseException | None) -> bool:
        """Go on to the next try after an error, and count it; return False if there is none."""
        goes_on = tries.goes_on(error)
        if goes_on:
            self._count("retries")
        return goes_on

    def new_try(self, is_last: bool, owner: object = None) -> "Transaction[R]":
        """Return a transaction that is one of several tries; `owner` is that of Transaction."""
        kind: _Kind = "snapshot" if self._readonly else "transaction"
        return Transaction(self, kind, is_last and not self._readonly, owner)

    def connection(self) -> AbstractContextManager[Connection[R]]:
        """Give a block a connection of its own, for many transactions. [DB-40]

        One thread at a time may use it, and its objects. Changes that were not committed at the end are lost.
        """
        return _Use(self)

    # The rest

    @overload
    def pack(self, wait: Literal[True] = True, progress: Callable[[Progress], object] | None = None) -> None: ...
    @overload
    def pack(self, wait: bool, progress: None = None) -> None: ...
    def pack(self, wait: bool = True, progress: Callable[[Progress], object] | None = None) -> None:
        """Remove what the root does not reach, while transactions go on. [DB-42]

        With wait=False a thread does so, and logs an error. A server packs by itself; one of an older version does not
        tell when it is done, so this returns when it has begun. `progress` is called with how far a pack here has come.
        """
        self._require_open()
        if wait:
            self._pack(progress)
            return
        if self._packing is not None and self._packing.is_alive():
            raise TransactionError("a pack is under way already")
        self._packing = threading.Thread(target=self._pack_and_log, name="durus-pack", daemon=True)
        self._packing.start()

    def _pack(self, progress: Callable[[Progress], object] | None) -> None:
        if self._readonly:
            raise ReadonlyError(f"{self._name} was opened with readonly=True and can't be packed")
        steps = self._engine.pack()
        try:
            for step in steps:
                if progress is not None:
                    progress(step)
                if self._is_closed:
                    return
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()

    def _pack_and_log(self) -> None:
        try:
            self._pack(None)
        except DurusError as error:
            if not self._is_closed:
                from durus.logger import logger  # only where it is used, for what it imports

                logger.error("the pack of %s failed: %s", self._name, error)

    def stats(self) -> Stats:
        """Return what was done so far."""
        counts = dict(self._counts)
        idle = sum(len(idle) for idle in self._idle.values())
        return Stats(**counts, connections=len(self._connections), idle=idle)

    def close(self) -> None:
        """Close all connections that nobody uses, and the storage; others are closed when their blocks end. [DB-43]"""
        self._is_closed = True
        packing, self._packing = self._packing, None
        if packing is not None and packing is not threading.current_thread():
            packing.join()
        for idle in self._idle.values():
            while idle:
                self._discard(idle.pop())
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Connections

    def _require_open(self) -> None:
        if self._is_closed:
            raise ClosedError(f"{self._name} is closed: open it again with durus.open()")

    def _take(self, kind: _Kind) -> PooledConnection[R]:
        """Return a connection that nobody else uses, awake for any thread, and that is sound as far as is known."""
        self._require_open()
        idle = self._idle[kind]
        while True:
            try:
                connection = idle.pop()  # the one used last, whose cache is warm
            except IndexError:
                break
            if connection.is_usable and self._engine.is_current(connection.storage):
                connection.wake(None)
                return connection
            self._discard(connection)
        engine = self._engine
        storage = engine.new_storage()
        new = PooledConnection if kind == "transaction" else SnapshotConnection
        try:
            connection = new(storage, self._cache_size, self._root_class, self._cache_bytes, self._debug)
        except BaseException:
            with suppress(DurusError):
                storage.close()
            raise
        self._connections.add(connection)
        return connection

    def _give_back(self, connection: PooledConnection[R]) -> None:
        idle = self._idle["snapshot" if connection.is_snapshot else "transaction"]
        if self._is_closed or not connection.is_usable or len(idle) >= _MAX_IDLE:
            self._discard(connection)
            return
        try:
            connection.storage.release()
            connection.sleep()
        except DurusError:
            self._discard(connection)
            return
        idle.append(connection)
        if self._is_closed:  # since a moment ago
            with suppress(ValueError):
                idle.remove(connection)
                self._discard(connection)

    def _discard(self, connection: PooledConnection[R]) -> None:
        self._connections.discard(connection)
        with suppress(DurusError):
            connection.close()

    def _count(self, what: str) -> None:
        self._counts[what] += 1  # without a lock, which an interrupt could keep from being released

    def _leave_to_parent(self) -> None:
        """In the child after a fork: begin with connections of its own, and hold none of the parent's open. [DB-41]"""
        for connection in list(self._connections):
            connection.storage.close()
        self._engine.leave_to_parent()
        self._begin_process()


class Transaction(AbstractContextManager[R], Generic[R]):
    """A block that is one transaction, or reads one snapshot.

    It is for the thread or task that begins it; or, with an `owner`, for any thread, but for one at a time. [WEB-6]
    """

    def __init__(self, database: Database[R], kind: _Kind, is_exclusive: bool, owner: object = None) -> None:
        self._database = database
        self._given_owner = owner
        self._kind: _Kind = kind
        self._is_exclusive = is_exclusive
        self._owner: object = None
        self._connection: PooledConnection[R] | None = None
        self._block: _Block[R] | None = None

    def __enter__(self) -> R:
        database = self._database
        if self._connection is not None:
            raise TransactionError("this transaction was begun already: call db.transaction() for another one")
        owner = self._owner = self._given_owner or _owner()
        is_inside = any(outer.is_open and outer._database is database for outer in surrounding.get())
        if self._kind == "transaction" and (is_inside or database._open.setdefault(owner, self) is not self):
            raise TransactionError(
                "this thread, task or request has a transaction of the database open already: give its root to the "
                "function that is called (of a transactional one to its __wrapped__), or end it before"
            )
        try:
            connection = self._connection = database._take(self._kind)
            block = self._block = _Block(connection, self._is_exclusive)
            block.__enter__()
            connection.wake(None if self._given_owner else threading.get_ident())
        except BaseException:
            self._end()
            raise
        if self._is_exclusive:
            database._count("exclusive")
        return connection.root

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, block = self._connection, self._block
        if connection is None or block is None:
            raise TransactionError("this transaction was not begun")
        try:
            connection.end(block, error)
        finally:
            self._end()

    @property
    def is_open(self) -> bool:
        """True from its begin to its end."""
        return self._connection is not None

    @property
    def trouble(self) -> DurusError | None:
        """The lost connection or the conflict that it has met, as far as it was told; None if neither."""
        return None if self._connection is None else self._connection.trouble

    def _end(self) -> None:
        database, connection, owner = self._database, self._connection, self._owner
        self._block = self._connection = None
        if database._open.get(owner) is self:
            del database._open[owner]
        if connection is not None:
            database._count("transactions")
            database._give_back(connection)

    def __del__(self) -> None:
        if self._connection is not None:  # an interrupt has kept the block from being ended
            self._connection.storage.abandon()


class _Attempt(AbstractContextManager[R], Generic[R]):
    """The tries that attempts() makes: one `with` block each."""

    def __init__(self, database: Database[R], tries: Tries) -> None:
        self._database = database
        self.tries = tries
        self._transaction: Transaction[R] | None = None
        self.is_over = False

    def __enter__(self) -> R:
        while True:
            self._transaction = self._database.new_try(self.tries.is_last and current_task() is None)
            try:
                return self._transaction.__enter__()
            except DurusError as error:
                if not self._goes_on(error):
                    raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        frame = sys._getframe(1)
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            raise TransactionError("this attempt was not begun")
        self.is_over = True
        try:
            transaction.__exit__(kind, error, traceback)
        except DurusError as failure:
            if error is None and may_try_again(failure) and not goes_round(frame):
                failure.add_note(
                    "it was not tried again, since the block of `with attempt` was left by return or break, or is not "
                    "the end of its loop: use db.run(), or let the block run to its end"
                )
                raise
            if not self._goes_on(failure):
                raise
            return True
        finally:
            del frame  # or it would be a cycle
        return error is not None and self._goes_on(error)

    def _goes_on(self, error: BaseException) -> bool:
        """Tell if there is another try after this error, when it is time for it."""
        self.is_over = not self._database.tries_again(self.tries, error)
        if not self.is_over:
            pause(error, self.tries.number)
        return not self.is_over


class _Use(AbstractContextManager[Connection[R]], Generic[R]):
    """A block that has a connection of its own."""

    def __init__(self, database: Database[R]) -> None:
        self._database = database
        self._connection: PooledConnection[R] | None = None

    def __enter__(self) -> Connection[R]:
        database = self._database
        connection = database._take("snapshot" if database._readonly else "transaction")
        try:
            connection.abort()
        except BaseException:
            database._discard(connection)
            raise
        self._connection = connection
        return connection

    def __exit__(self, *exception: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DurusError):  # then it is of no further use, which is found out next
                connection.abort()
            self._database._give_back(connection)


def _owner() -> object:
    """Return who has a transaction: the task of asyncio, or else the thread."""
    task = current_task()
    return threading.get_ident() if task is None else task


def _at_least_one(name: str, value: int) -> int:
    if type(value) is not int or value < 1:
        raise ArgumentError(f"{name} is {value!r}: it must be a number, and 1 at least")
    return value


def _plain(result: T) -> T:
    """Return what a function returned; ArgumentError if it is what would run when the transaction is over."""
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
        raise ArgumentError(
            "the function returned a coroutine or a generator, which would run when its transaction has ended: give a "
            "plain function that returns plain values"
        )
    if inspect.isasyncgen(result):
        raise ArgumentError("the function returned an asynchronous generator: give a plain function")
    return result


def _leave_all_to_parent() -> None:
    for database in list(_databases):
        database._leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)
