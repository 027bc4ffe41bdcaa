"""What a message about a lost connection says to do: users of a Connection and of a Database do not do the same."""

from typing import NamedTuple


class ConnectAgain(NamedTuple):
    """The ends of messages, for one kind of users. [DB-25]"""

    only: str
    """After a call that was interrupted."""
    and_run: str
    """If nothing of the transaction is stored."""
    and_look: str
    """If it is not known whether it is stored."""
    later: str
    """If connecting again has failed."""


BY_ABORT = ConnectAgain(
    "call abort() to connect again",
    "call abort() to connect again, and run the transaction again",
    "call abort() to connect again, and check whether it is stored before you run it again",
    "call abort() again when the server runs, then run the transaction again",
)
BY_NEXT_TRANSACTION = ConnectAgain(
    "the next transaction connects again",
    "run the transaction again, which connects again",
    "begin another transaction, which connects again, and check whether it is stored before you run it again",
    "run the transaction again when the server runs",
)
