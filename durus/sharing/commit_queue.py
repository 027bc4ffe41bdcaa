"""The commits of a session core that are accepted and not durable yet. Statements TXN-22, TXN-23, TXN-25 and TXN-31.

A queued commit has its place in the order of all commits. A write takes all queued ones; at its end their clients learn
the outcome. A commit that does not get there is a conflict for those queued after it that need what it was to store.
"""

import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from durus.error import DurusError, InterruptedTransactionError, TransactionError, WriteConflictError
from durus.oid_array import OidSet
from durus.records.record import refs_outside
from durus.sharing.change_log import LogReader
from durus.sharing.oid_grants import OidGrants
from durus.storage import Storage

OnOutcome = Callable[[DurusError | None], None]
"""Takes None when a commit is durable, or the reason why it is not stored: a WriteConflictError for a conflict."""


@dataclass(eq=False, slots=True)
class QueuedCommit:
    """A commit that has its serial and waits for its write."""

    name: str
    """The name of its client."""
    reader: LogReader
    """What its client knows."""
    grants: OidGrants
    """The oids of its client."""
    records: dict[bytes, bytes]
    done: OnOutcome
    new: frozenset[bytes] = frozenset()
    """Which of the oids were given to its client, and not used yet; known if others may commit, too."""
    accessed: OidSet | None = None
    """What its transaction has used; None for any oid."""
    serial: int = 0

    def conflicts_with(self, changed: Iterable[bytes]) -> list[bytes]:
        """Return which of the oids that others have changed it has used."""
        return [oid for oid in changed if self.accessed is None or oid in self.accessed or oid in self.records]


class CommitQueue:
    """The queued commits, and those that are being written.

    Args:
        storage: where the commits go.
        knows_needs: True if the storage itself finds out what a commit needs that is not there.
    """

    def __init__(self, storage: Storage, knows_needs: bool) -> None:
        self._storage = storage
        self._knows_needs = knows_needs
        self._queued: list[QueuedCommit] = []
        self.writing: list[QueuedCommit] = []
        self.undurable: dict[bytes, int] = {}
        """For each oid, how many commits write it that are not durable yet."""
        self._untold: dict[QueuedCommit, None] = {}
        """The accepted commits whose clients do not know the outcome yet; true wherever an exception comes."""

    @property
    def has_ready(self) -> bool:
        """True if there are commits for the next write, and it may begin."""
        return bool(self._queued) and not self.writing

    @property
    def unstored(self) -> list[QueuedCommit]:
        """The commits that are being written, and those that are queued."""
        return self.writing + self._queued

    def has_record(self, oid: bytes) -> bool:
        """Return whether an oid has a record, durable or on its way to the disk."""
        return oid in self.undurable or self._storage.has_record(oid)

    def durable_serial(self, end: int) -> int:
        """Return the serial of the last change before all commits that are not durable yet; `end` if all are."""
        return next((commit.serial - 1 for commit in self._untold), end)

    def add(self, commit: QueuedCommit) -> None:
        """Queue a commit: from now on it precedes every commit that is queued later."""
        self._untold[commit] = None
        self._queued.append(commit)
        self._count_undurable(commit)

    def _count_undurable(self, commit: QueuedCommit) -> None:
        for oid in commit.records:
            self.undurable[oid] = self.undurable.get(oid, 0) + 1

    def begin_write(self) -> list[QueuedCommit]:
        """Return all queued commits, which are being written from now on. [TXN-22]"""
        self.writing, self._queued = self._queued, []
        return self.writing

    def end_write(self, error: DurusError | None) -> None:
        """Tell all clients whose commits were being written how that has ended."""
        for commit in self.writing:
            self.settle(commit, error)
        self.writing = []  # not earlier: an interrupt must not make those a conflict that were not told yet [TXN-31]

    def end_group(self, group: list[QueuedCommit], errors: dict[int, DurusError]) -> None:
        """Tell the clients of a group how its write has ended; `errors` has the reasons by the index in the group."""
        for number, commit in enumerate(group):
            if commit in self._untold:
                self.settle(commit, errors.get(number))
        self.writing = []

    def withdraw(self, reader: LogReader) -> bool:
        """Withdraw the commit of a client that is queued; False if there is none."""
        for commit in self._queued:
            if commit.reader is reader:
                self._queued = [other for other in self._queued if other is not commit]
                self.settle(commit, TransactionError("the commit was withdrawn"))
                return True
        return False

    def take_conflicting(self, changed: list[bytes]) -> list[tuple[QueuedCommit, list[bytes]]]:
        """Remove and return the queued commits that have used what others have changed, with the oids of that."""
        refused: list[tuple[QueuedCommit, list[bytes]]] = []
        waiting, self._queued = self._queued, []
        for commit in waiting:
            conflicts = commit.conflicts_with(changed)
            if conflicts:
                refused.append((commit, conflicts))
            else:
                self._queued.append(commit)
        return refused

    def settle(self, commit: QueuedCommit, error: DurusError | None) -> None:
        """Tell a client the outcome of its commit, and the others whose commits needed what it was to store."""
        self.withdraw_conflicting(self._notify(commit, error))

    def _notify(self, commit: QueuedCommit, error: DurusError | None) -> set[bytes]:
        """Tell a client the outcome of its commit; return the oids that have no record because it failed."""
        for oid in commit.records:
            self.undurable[oid] -= 1
            if not self.undurable[oid]:
                del self.undurable[oid]
        if error is None:
            commit.grants.discard(commit.records)
        commit.done(error)
        self._untold.pop(commit, None)
        if error is None or self._knows_needs:
            return set()
        return {oid for oid in commit.records if not self.has_record(oid)}

    def withdraw_conflicting(self, lost: Collection[bytes]) -> None:
        """Withdraw the queued commits that store, or refer to, an oid that has no record any more."""
        while lost and self._queued:
            found: set[bytes] = set()
            waiting, self._queued = self._queued, []
            for commit in waiting:
                conflicts = [oid for oid in commit.records.keys() | refs_outside(commit.records) if oid in lost]
                if conflicts:
                    found |= self._notify(commit, WriteConflictError(sorted(conflicts)))
                else:
                    self._queued.append(commit)
            lost = found  # what remains needs nothing that was lost before

    def start_anew(self, is_write_lost: bool, to_tell: list[Callable[[], None]]) -> None:
        """Forget all commits but those that are being written. [TXN-31]

        Args:
            is_write_lost: True if the write was lost together with its thread.
            to_tell: gets what tells the clients of the others, before these are forgotten.
        """
        writing = [] if is_write_lost else [commit for commit in self.writing if commit in self._untold]
        lost = self.writing if is_write_lost else []
        to_tell += [
            functools.partial(
                commit.done, _outcome_unknown() if commit in lost else WriteConflictError(sorted(commit.records))
            )
            for commit in self._untold
            if commit not in writing
        ]
        self._queued, self.writing = [], writing
        self._untold = dict.fromkeys(writing)
        self.undurable = {}
        for commit in writing:
            self._count_undurable(commit)


def _outcome_unknown() -> InterruptedTransactionError:
    return InterruptedTransactionError(
        "the thread that wrote this commit was interrupted; the commit is stored completely or not at all: "
        "abort this transaction, and check whether it is stored before you run it again"
    )
