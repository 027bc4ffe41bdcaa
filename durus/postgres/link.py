"""The connection to the engine: several statements in one round trip, and errors as Durus has them. Statement PG-5.

A Link decides nothing. It raises DisconnectedError when the connection is of no more use, Postponed when the engine
asks to try the transaction again, and ServerError, with the transaction rolled back, for everything else.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.waiting import Ready, Wait

from durus.concurrency.forked import note_held
from durus.concurrency.uncopied import Uncopied
from durus.error import DisconnectedError, NotAllowedError, ServerError, ServerUnreachableError
from durus.postgres.arrays import ListDumper

_TRY_AGAIN = {"40001", "40P01", "55P03"}
"""A serialization failure, a deadlock, and a lock that was not free in time."""
_LOST = {"25006", "40003", "57P01", "57P02", "57P03", "57P05", "25P03"}
"""The server has become a standby, does not know the outcome, or is ending this session."""
_LOST_CLASSES = ("08",)
"""Errors of connections."""
_NOT_ALLOWED = "42501"
_RIGHTS = (
    "a client needs USAGE on the schema, and SELECT, INSERT, UPDATE and DELETE on its tables, TRUNCATE too if it "
    "packs, and only SELECT if it only reads; to make them, CREATE on the database, or USAGE and CREATE on a schema "
    "that is there: see GRANT, or have a role with these rights make them"
)
NO_COMMIT = {"22012", "23505"}
"""A division by zero, with which the statement `check` fails, and a row with the oid of one that is added."""
MISSING_TABLE = {"42P01", "3F000", "3D000"}
ALREADY_MADE = {"23505", "42P06", "42P07", "XX000"}
"""What making tables can meet if another client makes them at the same time."""

Step = tuple[bytes, Sequence[object]]
"""A statement and its parameters."""
Rows = list[tuple[Any, ...]]


class Postponed(Exception):
    """The engine has rolled a transaction back, and another try may succeed."""


class SqlError(ServerError):
    """An error of the engine, with its code `state`."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.state = state


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that gives up a server that is silent for too long. [PG-16]"""

    patience = float("inf")
    """For how many seconds the server may be silent while an answer is due."""
    is_of_parent = False
    """True in a child of the process that made it, where nothing may be sent."""

    def wait(self, gen: Generator[Any, Any, Any], *limits: Any, **named: Any) -> Any:
        if self.is_of_parent:  # psycopg leaves the pipeline when Python ends
            gen.close()
            return None
        limited: Any = _Limited(gen, self)  # has what psycopg calls of a generator
        return super().wait(limited, *limits, **named)


class _Limited:
    """What psycopg waits for, up to a limit: it sends 0 when nothing has come for a while.

    psycopg also waits for answers while a part of long statements is not sent yet. That is sent here meanwhile.
    """

    def __init__(self, gen: Generator[Any, Any, Any], connection: _Connection) -> None:
        self._gen, self._connection, self._heard = gen, connection, time.monotonic()
        self._wanted = Wait.R

    def __next__(self) -> Any:
        return self._wait_for(next(self._gen))

    def send(self, ready: Any) -> Any:
        if ready:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > self._connection.patience:
            self._connection.pgconn.finish()
            raise psycopg.OperationalError(f"the server was silent for {self._connection.patience:g} s")
        if ready == Ready.W and self._wanted == Wait.R:
            return self._wait_for(Wait.R)
        return self._wait_for(self._gen.send(ready))

    def _wait_for(self, wanted: Any) -> Any:
        self._wanted = wanted
        return Wait.RW if wanted == Wait.R and self._connection.pgconn.flush() else wanted


class Link(Uncopied):
    """One connection to the engine, in autocommit mode; `name` says to what, for messages.

    ServerUnreachableError if there is none. A server that is silent for `patience` seconds is given up.
    """

    def __init__(self, address: str, options: Mapping[str, str], name: str, prepare: bool, patience: float) -> None:
        self._name = name
        self._is_of_parent = False
        self.warning = ""
        """The warning that came with the last round trip; empty if there was none."""
        try:
            self._connection = _Connection.connect(
                address, autocommit=True, prepare_threshold=5 if prepare else None, **dict[str, Any](options)
            )
        except psycopg.Error as error:
            raise ServerUnreachableError(f"{name} can't be reached: {_text(error)}") from error
        self._connection.patience = patience
        self._connection.adapters.register_dumper(list, ListDumper)
        self._connection.add_notice_handler(self._note)
        # For good: leaving a pipeline sends a message after the last statement, and PostgreSQL then forgets that it
        # waits for a client that is silent in a transaction (idle_in_transaction_session_timeout).
        self._in_pipeline = self._connection.pipeline()
        self._pipeline = self._in_pipeline.__enter__()
        note_held(self)

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self.close()

    @property
    def is_open(self) -> bool:
        """False once the connection is lost or closed, and in a child of the process that made it."""
        return not (self._is_of_parent or self._connection.closed)

    @property
    def is_in_transaction(self) -> bool:
        """True between BEGIN and its end."""
        return self.is_open and self._connection.pgconn.transaction_status != TransactionStatus.IDLE

    @property
    def is_quiet(self) -> bool:
        """False if the engine has sent something that no answer was due for, as when it has ended the session."""
        waiting = select.poll()
        waiting.register(self._connection.fileno(), select.POLLIN)
        return not waiting.poll(0)

    @property
    def is_standby(self) -> bool:
        """True if the server follows another one, which may be ahead of it."""
        return self.is_open and self._connection.info.parameter_status("in_hot_standby") == "on"

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self.warning = " ".join(filter(None, (notice.message_primary, notice.message_detail)))

    def run(self, *steps: Step, prepare: bool | None = None) -> list[Rows]:
        """Run statements in one round trip, and return the rows of each; after an error, roll the transaction back.

        With prepare=False they are planned again, for tables whose sizes change quickly.
        """
        self.warning = ""
        try:
            cursors = [self._connection.cursor(binary=True) for _ in steps]
            for cursor, (statement, values) in zip(cursors, steps, strict=True):
                cursor.execute(statement, values, prepare=prepare)
            self._pipeline.sync()
            return [cursor.fetchall() if cursor.description else [] for cursor in cursors]
        except psycopg.Error as error:
            raise self._error(error) from error

    def _error(self, error: psycopg.Error) -> Exception:
        state = error.sqlstate or ""
        with contextlib.suppress(psycopg.Error):
            self._pipeline.sync()  # the engine skips everything up to this
        is_lost = not self.is_open or state in _LOST or state[:2] in _LOST_CLASSES
        if not is_lost:
            is_lost = not self._start_anew()
        if is_lost:
            self.close()
            return DisconnectedError(f"the connection to {self._name} was lost: {_text(error)}")
        if state in _TRY_AGAIN:
            return Postponed(_text(error))
        if state == _NOT_ALLOWED:
            return NotAllowedError(f"{self._name} does not allow that: {_text(error)}; {_RIGHTS}")
        return SqlError(f"{self._name} can't do that: {_text(error)}", state)

    def _start_anew(self) -> bool:
        """Roll back, and have all statements prepared again; False if the connection is lost.

        The engine has skipped what came after the statement that failed, and psycopg takes as prepared what was to be
        prepared there.
        """
        try:
            if not self.is_in_transaction:
                self._connection.execute(b"BEGIN")  # without a transaction, rollback() does nothing
                self._pipeline.sync()
            self._connection.rollback()
        except psycopg.Error:
            self.close()
        return self.is_open

    def roll_back(self) -> bool:
        """End the transaction without a commit, if there is one; False if the connection is lost."""
        if self.is_in_transaction:
            try:
                self._connection.execute(b"ROLLBACK")
                self._pipeline.sync()
            except psycopg.Error:
                self.close()
        return self.is_open

    def close(self) -> None:
        """End the session; the engine rolls an open transaction back."""
        if not self._is_of_parent:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            with contextlib.suppress(psycopg.Error, AttributeError):  # there is none yet if __init__() failed
                self._in_pipeline.__exit__(None, None, None)

    def break_off(self) -> None:
        """End the connection, in any thread: the one that waits for an answer gets DisconnectedError."""
        with contextlib.suppress(OSError, psycopg.Error):  # it has ended already
            doubled = socket.socket(fileno=os.dup(self._connection.fileno()))
            with doubled:
                doubled.shutdown(socket.SHUT_RDWR)

    def leave_to_parent(self) -> None:
        """Close the descriptor of this process, and leave the session to the parent. [TXN-32]"""
        if self.is_open:
            self._is_of_parent = self._connection.is_of_parent = True
            _of_parent.extend((self._connection, self._in_pipeline))
            with contextlib.suppress(OSError, psycopg.Error):
                os.close(self._connection.pgconn.socket)


_of_parent: list[object] = []
"""Connections that the parent of this process has, which must never be closed here."""


def _text(error: psycopg.Error) -> str:
    """Return what the engine says, without the place in the statement: a user has not written that."""
    told = ": ".join(filter(None, (error.diag.message_primary, error.diag.message_detail))) or str(error)
    return " ".join(told.split()).rstrip(".") or type(error).__name__
