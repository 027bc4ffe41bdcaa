"""Database: what a program opens, and shares between its threads, tasks and processes. spec/database.md.

A Database has a pool of connections. A transaction takes one for its thread or task, and returns it at its end; between
two transactions a connection sleeps and refuses every use of its objects. No lock guards the pool: its lists change in
single steps, which threads and interrupts cannot divide.
"""

import functools
import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import (
    TYPE_CHECKING,
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

from durus.concurrency.uncopied import Uncopied
from durus.connection import Connection
from durus.error import (
    ArgumentError,
    ClosedError,
    ConflictError,
    DurusError,
    ReadonlyError,
    TransactionError,
    UnnotedChangeError,
)
from durus.objects.trust import Entry, checked_entries
from durus.persistent import PersistentObject
from durus.pool.attempts import Contention, Tries, goes_round, may_try_again, pause
from durus.pool.connections import PooledConnection, SnapshotConnection
from durus.pool.engines import Engine
from durus.progress import Progress
from durus.transactions.blocks import Block, current_task
from durus.transactions.unnoted import Debug

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault  # type checkers have it built in

    from durus.persistent_dict import PersistentDict

    Root = TypeVarWithDefault("Root", bound=PersistentObject, default=PersistentDict[str, Any])
    """The type of the root of a Database. [OBJ-91]"""
else:
    Root = TypeVar("Root")

R = TypeVar("R", bound=PersistentObject)
T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

_MAX_IDLE = 64
"""How many unused connections of each kind are kept."""
_Kind = Literal["transaction", "snapshot"]
_databases: "weakref.WeakSet[Database[PersistentObject]]" = weakref.WeakSet()
surrounding: "ContextVar[tuple[Transaction[Any], ...]]" = ContextVar("durus.surrounding", default=())
"""The transactions with an owner of their own in which this context works, the innermost last. [WEB-8]"""


class Stats(NamedTuple):
    """What a Database has done in this process since it was opened, or since the fork."""

    transactions: int
    """How many transactions and snapshots have ended."""
    retries: int
    """How many tries followed a conflict or a lost connection."""
    exclusive: int
    """How many transactions took their turn first, including last tries."""
    connections: int
    """How many connections are open, including unused ones."""
    idle: int
    """How many of these are unused at the moment."""


class Database(Uncopied, Generic[Root]):
    """The objects of one file, server or memory, for all threads and tasks of a process, and for its children.

    durus.open() makes it. Each transaction has its own connection while it lasts, so threads need no locks. The objects
    of a transaction are for its thread, and only until its end. [DB-10] [DB-30]
    """

    def __init__(
        self,
        engine: Engine,
        *,
        root_class: type[Root] | None = None,
        cache_size: int = 100_000,
        cache_bytes: int | None = None,
        tries: int | None = None,
        readonly: bool = False,
        name: str = "database",
        debug: Debug | None = None,
        classes: Iterable[Entry] | None = None,
    ) -> None:
        """Open the database that an engine leads to; the other arguments are those of open()."""
        self._name = name
        self._engine = engine
        self._root_class = root_class
        self._cache_size = _at_least_one("cache_size", cache_size)
        self._cache_bytes = None if cache_bytes is None else _at_least_one("cache_bytes", cache_bytes)
        self._debug = debug
        self._classes = None if classes is None else checked_entries(classes)
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
        """Begin to work in this process, without anything of another one."""
        self._idle: dict[_Kind, list[PooledConnection[Root]]] = {"transaction": [], "snapshot": []}
        self._connections: weakref.WeakSet[PooledConnection[Root]] = weakref.WeakSet()
        self._open: weakref.WeakValueDictionary[object, Transaction[Root]] = weakref.WeakValueDictionary()
        """The open transaction of each thread or task."""
        self._contention = Contention()
        self._counts = dict.fromkeys(("transactions", "retries", "exclusive"), 0)

    def __repr__(self) -> str:
        return f"<Database {self._name}{', closed' if self._is_closed else ''}>"

    # Transactions

    def transaction(self, exclusive: bool = False) -> AbstractContextManager[Root]:
        """Run a block as one transaction on the root: commit at its end, abort if it raises. [DB-10]

        Args:
            exclusive: take the turn to commit before the first read, so that there can be no conflict; all other
                commits wait until the block ends. [DB-12] On a server that speaks protocol 1 only, commits of this
                process wait, and those of others can conflict. [DB-14]

        Returns:
            A context manager that gives the root.

        Raises:
            TransactionError: this thread or task already has an open transaction, or an exclusive one is begun in a
                task.
            ConflictError: at the end of the block, if others have changed what it used; run() tries again
                automatically.
        """
        if exclusive and current_task() is not None:
            raise TransactionError(
                "an exclusive transaction in a task of asyncio would block all tasks while it waits; "
                "use `await db.run_async(function)`, whose last try is exclusive"
            )
        return Transaction(self, "snapshot" if self._readonly else "transaction", exclusive and not self._readonly)

    def snapshot(self) -> AbstractContextManager[Root]:
        """Run a block that reads one state of the database, whatever others commit meanwhile. [DB-15]

        A change in the block raises ReadonlyError. A snapshot has no conflicts and delays nobody, except on a server
        that speaks protocol 1 only: there a read may raise ReadConflictError. [DB-16]

        Returns:
            A context manager that gives the root.

        Raises:
            TransactionError: this thread or task already has an open transaction.
        """
        return Transaction(self, "snapshot", False)

    def run(self, function: Callable[[Root, *Ts], T], /, *args: *Ts, tries: int | None = None) -> T:
        """Call function(root, *args) in a transaction, and again after a conflict. [DB-20] [DB-21]

        The function may be called several times, so apart from persistent objects it must do only what can be repeated.
        Only the changes of its last call are stored. The last try is an exclusive transaction, and so is each after two
        conflicts while no try has taken longer than 50 ms. [DB-24]

        Args:
            function: called with the root and the other arguments.
            args: these arguments.
            tries: how often the function is called, at most; None takes the option `tries` of the database.

        Returns:
            What the function returned.

        Raises:
            ConflictError: the last try had a conflict.
            OutcomeUnknownError: the commit may be stored; this is not tried again.
            Exception: whatever the function raised.
        """
        _require_function("run", function)
        return self._run(lambda root: function(root, *args), tries, function)

    def _run(self, call: Callable[[Root], T], limit: int | None, function: object) -> T:
        """Run `call`, which calls this function of the application."""
        tries = self.new_tries(limit, self._contention.expects(function))
        try:
            while True:
                try:
                    with self.new_try(tries) as root:
                        return _plain(call(root))
                except DurusError as error:
                    if not self.tries_again(tries, error):
                        raise
                    if not (isinstance(error, ConflictError) and tries.waits_in_line):  # there are the others before it
                        pause(error, tries.number)
        finally:
            self._contention.note(function, tries)

    async def run_async(self, function: Callable[[Root, *Ts], T], /, *args: *Ts, tries: int | None = None) -> T:
        """Do what run() does, in a separate thread, so that other tasks of asyncio continue. [DB-23]

        If the task is cancelled, the call continues to its end, and may commit.

        Args:
            function: a plain function, not a coroutine function.
            args: as for run().
            tries: as for run().

        Returns:
            What the function returned.
        """
        import asyncio  # only if the application has imported it

        return await asyncio.to_thread(functools.partial(self.run, function, *args, tries=tries))

    @overload
    def transactional(self, function: Callable[Concatenate[Root, P], T], /) -> Callable[P, T]: ...
    @overload
    def transactional(self, /, *, tries: int) -> Callable[[Callable[Concatenate[Root, P], T]], Callable[P, T]]: ...
    def transactional(
        self, function: Callable[Concatenate[Root, P], T] | None = None, /, *, tries: int | None = None
    ) -> Callable[P, T] | Callable[[Callable[Concatenate[Root, P], T]], Callable[P, T]]:
        """Decorate a function so that run() calls it; callers leave the root out.

            @db.transactional
            def add(root: PersistentDict[str, Any], name: str) -> None: ...

            add("Ann")

        The original function is its `__wrapped__`, for calls inside of another transaction.

        Args:
            function: the function, whose first argument is the root.
            tries: as for run().
        """
        if tries is not None:
            _at_least_one("tries", tries)
        if function is not None:
            _require_function("transactional", function)

        def decorate(function: Callable[Concatenate[Root, P], T]) -> Callable[P, T]:
            @functools.wraps(function)
            def transactional(*args: P.args, **kwargs: P.kwargs) -> T:
                return self._run(lambda root: function(root, *args, **kwargs), tries, function)

            return transactional

        return decorate if function is None else decorate(function)

    def attempts(self, tries: int | None = None) -> Iterator[AbstractContextManager[Root]]:
        """Do what run() does, for a block. [DB-22]

            for attempt in db.attempts():
                with attempt as root:
                    root["n"] += 1

        The loop must contain nothing but the block, and the block must not be left by `return` or `break`; otherwise a
        conflict is raised and not tried again. In a task of asyncio the last try is not exclusive.

        Args:
            tries: as for run().

        Yields:
            Context managers that give the root.
        """
        attempt = _Attempt(self, self.new_tries(tries))
        while not attempt.is_over:
            number = attempt.tries.number
            yield attempt
            if not attempt.is_over and attempt.tries.number == number:
                raise TransactionError("an attempt was not used; begin it with `with attempt as root:`")

    def new_tries(self, limit: int | None = None, is_contended: bool = False) -> Tries:
        """Return the count of tries for one more transaction, for a caller with its own loop of new_try().

        Args:
            limit: how many tries at most; None takes the option `tries` of the database.
            is_contended: True if the first try is to be exclusive, because there would be conflicts. [DB-26]
        """
        limit = self._tries if limit is None else _at_least_one("tries", limit)
        return Tries(limit, self._engine.has_turns, is_contended)

    def tries_again(self, tries: Tries, error: BaseException | None) -> bool:
        """Count an error of a try, and return whether to try again.

        Args:
            tries: what new_tries() returned.
            error: what the try raised.
        """
        goes_on = tries.goes_on(error)
        if goes_on:
            self._count("retries")
        return goes_on

    def new_try(self, tries: Tries, owner: object = None, may_be_exclusive: bool = True) -> "Transaction[Root]":
        """Return the transaction that is the next of several tries.

        Args:
            tries: what new_tries() returned.
            owner: as for Transaction.
            may_be_exclusive: False if the transaction can't wait for its turn.
        """
        is_exclusive = tries.is_exclusive and may_be_exclusive and not self._readonly
        return Transaction(self, "snapshot" if self._readonly else "transaction", is_exclusive, owner, tries)

    def connection(self) -> AbstractContextManager[Connection[Root]]:
        """Give a block its own connection, for many transactions. [DB-40]

        One thread at a time may use the connection and its objects. Uncommitted changes are lost at the end.

        Returns:
            A context manager that gives the connection.
        """
        return _Use(self)

    # The rest

    @overload
    def pack(self, wait: Literal[True] = True, progress: Callable[[Progress], object] | None = None) -> None: ...
    @overload
    def pack(self, wait: bool, progress: None = None) -> None: ...
    def pack(self, wait: bool = True, progress: Callable[[Progress], object] | None = None) -> None:
        """Remove the objects that the root does not reach, while transactions continue. [DB-42]

        A server packs on its own; one of an older version does not report when it is done, so this returns when it has
        started.

        Args:
            wait: False returns immediately; a thread packs then, and logs an error.
            progress: called with the progress of a pack in this process, after each step.

        Raises:
            TransactionError: a pack is running already.
            ReadonlyError: the database is open with readonly=True.
        """
        self._require_open()
        if wait:
            self._pack(progress)
            return
        if self._packing is not None and self._packing.is_alive():
            raise TransactionError("a pack is running already")
        self._packing = threading.Thread(target=self._pack_and_log, name="durus-pack", daemon=True)
        self._packing.start()

    def _pack(self, progress: Callable[[Progress], object] | None) -> None:
        if self._readonly:
            raise ReadonlyError(f"{self._name} is open with readonly=True and can't be packed")
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
                from durus.logger import logger  # only when used, because of its imports

                logger.error("the pack of %s failed: %s", self._name, error)

    def stats(self) -> Stats:
        """Return what was done so far."""
        counts = dict(self._counts)
        idle = sum(len(idle) for idle in self._idle.values())
        return Stats(**counts, connections=len(self._connections), idle=idle)

    def close(self) -> None:
        """Close the storage and all unused connections; the others are closed when their blocks end. [DB-43]"""
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
            raise ClosedError(f"{self._name} is closed; open it again with durus.open()")

    def _take(self, kind: _Kind) -> PooledConnection[Root]:
        """Return a connection that nobody else uses, awake for any thread, and not known to be lost."""
        self._require_open()
        idle = self._idle[kind]
        while True:
            try:
                connection = idle.pop()  # the most recently used one, whose cache is warm
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
            connection = new(storage, self._cache_size, self._root_class, self._cache_bytes, self._debug, self._classes)
        except BaseException:
            with suppress(DurusError):
                storage.close()
            raise
        self._connections.add(connection)
        return connection

    def _give_back(self, connection: PooledConnection[Root]) -> None:
        idle = self._idle["snapshot" if connection.is_snapshot else "transaction"]
        while connection.has_lost_root and idle:  # so have they; new ones make a root, as the first one does
            self._discard(idle.pop())
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
        if self._is_closed:  # it closed a moment ago
            with suppress(ValueError):
                idle.remove(connection)
                self._discard(connection)

    def _discard(self, connection: PooledConnection[Root]) -> None:
        self._connections.discard(connection)
        with suppress(DurusError):
            connection.close()

    def _require_no_turn_here(self) -> None:
        """Raise TransactionError for a commit inside of an exclusive transaction: it would wait for itself. [DB-12]"""
        here = self._open.get(_owner())
        for transaction in surrounding.get() if here is None else (here, *surrounding.get()):
            if transaction.is_open and transaction._database is self and transaction._is_exclusive:
                raise TransactionError(
                    "this commit is inside of an exclusive transaction of the database, and would wait for its end: "
                    "make the change with the root of that transaction, or after it"
                )

    def _count(self, what: str) -> None:
        self._counts[what] += 1  # without a lock, because an interrupt could prevent its release

    def _leave_to_parent(self) -> None:
        """In the child after a fork: begin with new connections, and keep none of the parent's open. [DB-41]"""
        for connection in list(self._connections):
            connection.storage.close()
        self._engine.leave_to_parent()
        self._begin_process()


class Transaction(Uncopied, AbstractContextManager[R], Generic[R]):
    """A block that is one transaction, or reads one snapshot.

    It belongs to the thread or task that begins it; with an `owner`, to any thread, one at a time. [WEB-6]
    """

    _connection: PooledConnection[R] | None = None

    def __init__(
        self,
        database: Database[R],
        kind: _Kind,
        is_exclusive: bool,
        owner: object = None,
        tries: Tries | None = None,
    ) -> None:
        self._database = database
        self._given_owner = owner
        self._tries = tries
        self._kind: _Kind = kind
        self._is_exclusive = is_exclusive
        self._owner: object = None
        self._block: Block[R] | None = None

    def __enter__(self) -> R:
        database = self._database
        if self._connection is not None:
            raise TransactionError("this transaction has begun already; call db.transaction() for another one")
        owner = self._owner = self._given_owner or _owner()
        is_inside = any(outer.is_open and outer._database is database for outer in surrounding.get())
        if self._kind == "transaction" and (is_inside or database._open.setdefault(owner, self) is not self):
            raise TransactionError(
                "this thread, task or request already has an open transaction of the database; pass its root to the "
                "function (of a transactional one, call its __wrapped__), or end it before"
            )
        try:
            connection = self._connection = database._take(self._kind)
            block = self._block = Block(connection, self._is_exclusive)
            block.__enter__()
            connection.wake(None if self._given_owner else threading.get_ident())
        except BaseException:
            self._end()
            raise
        if self._is_exclusive:
            database._count("exclusive")
        if self._tries is not None:
            self._tries.begin_work()
        return connection.root

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, block = self._connection, self._block
        if connection is None or block is None:
            raise TransactionError("this transaction has not begun")
        if self._tries is not None:
            self._tries.end_work()
        try:
            connection.end(block, error)
        finally:
            self._end()

    @property
    def is_open(self) -> bool:
        """True from its beginning to its end."""
        return self._connection is not None

    @property
    def trouble(self) -> DurusError | None:
        """The lost connection or the conflict that it has met, or None."""
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
        if self._connection is not None:  # an interrupt has prevented the end of the block
            self._connection.storage.abandon()


class _Attempt(AbstractContextManager[R], Generic[R]):
    """The tries of attempts(): one `with` block each."""

    def __init__(self, database: Database[R], tries: Tries) -> None:
        self._database = database
        self.tries = tries
        self._transaction: Transaction[R] | None = None
        self.is_over = False

    def __enter__(self) -> R:
        while True:
            self._transaction = self._database.new_try(self.tries, may_be_exclusive=current_task() is None)
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
            raise TransactionError("this attempt has not begun")
        self.is_over = True
        try:
            transaction.__exit__(kind, error, traceback)
        except DurusError as failure:
            if error is None and may_try_again(failure) and not goes_round(frame):
                failure.add_note(
                    "it was not tried again, because the block of `with attempt` was left by return or break, or is "
                    "not the end of its loop; use db.run(), or let the block run to its end"
                )
                raise
            if not self._goes_on(failure):
                raise
            return True
        finally:
            del frame  # otherwise it would be a reference cycle
        return error is not None and self._goes_on(error)

    def _goes_on(self, error: BaseException) -> bool:
        """Wait before the next try after this error; return False if there is none."""
        self.is_over = not self._database.tries_again(self.tries, error)
        if not self.is_over:
            pause(error, self.tries.number)
        return not self.is_over


class _Use(AbstractContextManager[Connection[R]], Generic[R]):
    """A block that has its own connection."""

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
        connection.before_commit = database._require_no_turn_here
        self._connection = connection
        return connection

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.before_commit = None
        try:
            connection.abort()
        except UnnotedChangeError:  # where its warning is an error
            if error is None:
                raise
        except DurusError:
            pass  # it can't be used again, which the next line finds out
        finally:
            self._database._give_back(connection)


def _owner() -> object:
    """Return the owner of a transaction: the task of asyncio, or else the thread."""
    task = current_task()
    # Not its number: a new thread may have that of one that has left a transaction open at its end.
    return threading.current_thread() if task is None else task


def _at_least_one(name: str, value: int) -> int:
    if type(value) is not int or value < 1:
        raise ArgumentError(f"{name} is {value!r}; it must be a number, and at least 1")
    return value


def _require_function(method: str, function: object) -> None:
    if not callable(function):
        raise ArgumentError(
            f"{method}() was given {function!r}, and needs a function that takes the root: pass it without calling it, "
            "and the number of tries as tries=..."
        )


def _plain(result: T) -> T:
    """Return what a function returned; ArgumentError if that would run only after the transaction."""
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
        raise ArgumentError(
            "the function returned a coroutine or a generator, which would run after its transaction; pass a plain "
            "function that returns plain values"
        )
    if inspect.isasyncgen(result):
        raise ArgumentError("the function returned an asynchronous generator; pass a plain function")
    return result


def _leave_all_to_parent() -> None:
    for database in list(_databases):
        database._leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)
