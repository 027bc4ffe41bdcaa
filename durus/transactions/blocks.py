"""The `with` blocks of a connection: a transaction(), and the savepoints in it. Statements TXN-17, TXN-34, TXN-50.

While a block is open, the transaction belongs to the thread that has opened it, or to the task of asyncio if one runs
in that thread. Whatever ends a transaction asks here first whether it may.

Only the `with` statement holds a block. If one is gone that has not ended, an interrupt came between its last line and
its end. What was changed in it must not get into another transaction then.
"""

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from weakref import ref

from durus.error import ConcurrentUseError, DurusError, TransactionError
from durus.persistent import PersistentObject
from durus.transactions.savepoint import KeptStates

if TYPE_CHECKING:
    import asyncio

Root_co = TypeVar("Root_co", bound=PersistentObject, covariant=True)


class Owner(Protocol[Root_co]):
    """The connection to which blocks belong."""

    def get_root(self) -> Root_co:
        """Return the root object."""

    def _note_lost_block(self) -> None:
        """Have the next call start anew if an interrupt kept a block from being ended."""

    def _begin_block(self, block: "Block[PersistentObject]") -> None:
        """Begin a transaction; TransactionError if one is open."""

    def _end_block(self, block: "Block[PersistentObject]", error: BaseException | None) -> None:
        """Commit, or abort if there was an error."""

    def _begin_savepoint(self, savepoint: "Savepoint") -> None:
        """Keep the states of what the transaction has changed."""

    def _end_savepoint(self, savepoint: "Savepoint", has_failed: bool) -> None:
        """Keep the changes of a savepoint's block, or undo them."""


class Block(Generic[Root_co]):
    """A block that is one transaction. [TXN-17]"""

    def __init__(self, connection: Owner[Root_co], is_exclusive: bool) -> None:
        self._connection = connection
        self.is_exclusive = is_exclusive
        self.task: asyncio.Task[object] | None
        self.thread: int
        """The thread that has opened it, or is ending it."""
        self.has_lost_changes = False
        """True if an interrupt has discarded changes that were made in it."""

    def __enter__(self) -> Root_co:
        self.task, self.thread = current_task(), threading.get_ident()
        self._connection._note_lost_block()
        self._connection._begin_block(self)
        return self._connection.get_root()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection._end_block(self, error)


class Savepoint:
    """A block whose changes are undone if it raises. [TXN-50]"""

    def __init__(self, connection: Owner[PersistentObject]) -> None:
        self._connection = connection
        self.task: asyncio.Task[object] | None
        self.serial: int
        """The number of the transaction in which it has begun."""
        self.kept: KeptStates

    def __enter__(self) -> None:
        self.task = current_task()
        self._connection._begin_savepoint(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._connection._end_savepoint(self, has_failed=error is not None)
        except DurusError as failure:
            if error is None:
                raise
            # The next call reports it, too; the first error says what is wrong.
            error.add_note(f"and going back to the savepoint failed: {failure}")


class OpenBlocks:
    """The open blocks of a connection, and who may end its transaction meanwhile."""

    def __init__(self) -> None:
        self.refs: list[ref[Block[PersistentObject]] | ref[Savepoint]] = []
        """The open blocks, the outermost first. A transaction has no block around it."""

    @property
    def transaction(self) -> Block[PersistentObject] | None:
        """The open block that is a transaction."""
        block = self.refs[0]() if self.refs else None
        return block if isinstance(block, Block) else None

    def end_transaction(self) -> None:
        """Note that the block of the transaction has ended."""
        if self.transaction is not None:
            del self.refs[0]

    def end_all(self) -> None:
        """Note that no block is open any more: the transaction has ended in some other way."""
        self.refs = []

    def lose(self) -> None:
        """Note that an interrupt has discarded the changes of all open blocks."""
        block = self.transaction
        if block is not None:
            block.has_lost_changes = True
        self.end_all()

    def is_one_gone(self) -> bool:
        """Return whether an interrupt kept a block from being ended."""
        return None in [each() for each in self.refs]

    def index_of(self, savepoint: Savepoint) -> int | None:
        """Return the index of a savepoint in `refs`, None if it is not open."""
        found = [each() for each in self.refs]
        return found.index(savepoint) if savepoint in found else None

    def check_no_savepoint(self) -> None:
        """Raise TransactionError where a savepoint is open. [TXN-52]"""
        if any(isinstance(each(), Savepoint) for each in self.refs):
            raise TransactionError(
                "a savepoint() block is open, which a commit would make final; commit after the block has ended"
            )

    def check_task(self) -> None:
        """Raise ConcurrentUseError where a block of another asyncio task is open. [TXN-34]"""
        for each in self.refs:
            block = each()
            task = None if block is None else block.task
            if task is not None and not task.done() and task is not current_task():
                raise ConcurrentUseError(
                    f"a transaction() or savepoint() block is open in the asyncio task {task.get_name()!r}, and "
                    "another task uses the connection; give each task its own connection, or end the block before "
                    "other tasks begin"
                )

    def check_thread(self) -> None:
        """Raise ConcurrentUseError where a block of another thread is open: its changes would be lost. [TXN-34]"""
        block = self.transaction
        if (
            block is not None
            and block.task is None
            and block.thread != threading.get_ident()
            and any(thread.ident == block.thread for thread in threading.enumerate())
        ):
            raise ConcurrentUseError(
                "a transaction() block of another thread is open in this connection: give each thread a connection of "
                "its own, on a client of a SharedStorage or on a ClientStorage"
            )


def current_task() -> "asyncio.Task[object] | None":
    """Return the asyncio task that runs in this thread, None if there is none."""
    if "asyncio" not in sys.modules:
        return None
    import asyncio  # only if the application has imported it

    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
