"""Commits on their way to the disk, as the session core hands them to its caller."""

from collections.abc import Callable

from durus.error import DurusError
from durus.storage import GroupOutcome, StagedCommit, StagedGroup


class Write:
    """The commits of one transaction of the storage.

    Args:
        staged: the transaction.
        size: about how many bytes there are to write.
        on_end: called with None when they are current, or with the reason why nothing is stored.
    """

    def __init__(self, staged: StagedCommit, size: int, on_end: Callable[[DurusError | None], None]) -> None:
        self._staged = staged
        self.size = size
        self._on_end = on_end

    def write(self) -> None:
        """Make them durable, in any thread; DurusError if that fails."""
        self._staged.write()

    def finish(self, error: DurusError | None) -> None:
        """Make the commits current, or withdraw them if write() raised `error`, and tell their clients."""
        if error is None:
            try:
                self._staged.accept()
            except DurusError as failure:
                error = failure
        self._on_end(error)


class GroupWrite(Write):
    """Commits on their way to an engine that has other clients, too, some of which may be in conflict. [PG-62]

    Args:
        staged: the transaction of the engine.
        size: about how many bytes there are to write.
        members: how many commits there are.
        on_outcome: called with what became of them.
    """

    def __init__(
        self, staged: StagedGroup, size: int, members: int, on_outcome: Callable[[GroupOutcome], None]
    ) -> None:
        super().__init__(StagedCommit(staged.write, lambda: None), size, lambda error: None)
        self._group = staged
        self._members = members
        self._on_outcome = on_outcome

    def finish(self, error: DurusError | None) -> None:
        outcome = self._group.accept()
        if error is not None:
            outcome = GroupOutcome(outcome.changed, dict.fromkeys(range(self._members), error))
        self._on_outcome(outcome)


def failing_write(error: DurusError, size: int, on_end: Callable[[DurusError | None], None]) -> Write:
    """Return a write that raises `error`."""

    def write() -> None:
        raise error

    return Write(StagedCommit(write, lambda: None), size, on_end)
