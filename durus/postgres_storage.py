"""PostgresStorage: a storage in the tables of a PostgreSQL server, for any number of clients. spec/sql-engine.md.

Every client talks to the engine itself. The lock of one row is the turn to commit; the transaction of the engine that
takes it also reads what others have changed, and writes the records. Between calls no transaction is open, except for
a snapshot and for an exclusive turn.
"""

import contextlib
import logging
import math
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import compress, islice
from operator import not_
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from uuid import UUID, uuid4

from durus.concurrency.call_guard import CallGuard, guarded
from durus.error import (
    ArgumentError,
    ClosedError,
    DisconnectedError,
    DurusError,
    DurusKeyError,
    DurusWarning,
    NetworkError,
    OutcomeUnknownError,
    ReadConflictError,
    ReadonlyError,
    ServerError,
    TransactionError,
    WriteConflictError,
)
from durus.oid import ROOT_OID, oid_from_int, oid_to_int
from durus.postgres.connecting import LIBPQ, Connector
from durus.postgres.decisions import (
    MAX_ACCESSED,
    MAX_CHANGES,
    News,
    Seen,
    Turn,
    check_values,
    conflicts,
    existing_of,
    invalid_oids,
    is_behind,
    lost_commits,
    needed_oids,
    news_of,
)
from durus.postgres.oids import ClientOids
from durus.postgres.rows import MAX_OID, Row, chunks, parameters, record_of_row, row_of
from durus.postgres.statements import Statements
from durus.postgres_group import FIRST_PAUSE, MAX_PAUSE, GroupWrite, PostgresGroup
from durus.progress import Progress
from durus.sharing.prefetch import Prefetch
from durus.storage import Accesses, GroupNews, GuardedStorage, InvalidationHandler

if TYPE_CHECKING:
    from durus.postgres.link import Link, Rows, Step

T = TypeVar("T")

_sleep = time.sleep
_logger = logging.getLogger("durus")

_LOADS_AT_A_TIME = 1000
_TRIM_EVERY = 256
_TRIM_AT_MOST = 1024
"""After how many commits the log of changes is trimmed, and by how many."""
_LOG_AGE = "1 hour"
"""How long changes are kept."""


class PostgresStorage(GuardedStorage):
    """A storage in a PostgreSQL database, shared with its other clients. It needs `pip install 'durus[postgres]'`.

    A storage is for one Connection. Each further one, in any process on any machine, has a storage of its own.

    Args:
        address: where the database is, as `postgresql://user@host:port/name`, or in another form that libpq knows.
        schema: the schema of the tables, which are made if they are not there.
        readonly: never make or change anything; the server may be a standby.
        timeout: how many seconds a commit may wait for its turn, and for a server that is gone to come back; after the
            same time of silence, and at least 30 seconds, the connection is dropped; None means no limit.
        prefetch: how many records are loaded ahead, at most, with each loaded one; 0 turns this off. [TXN-26]
        prepare: False if there is a pooler between that does not support prepared statements.
        durability: "fsync"; or "os", to accept a server with `synchronous_commit=off`, which may lose the last commits
            in a crash.
        parameters: those of libpq, such as `host`, `sslmode` and `target_session_attrs`.

    Raises:
        ServerUnreachableError: there is no such database, or the server can't be reached.
        NotAllowedError: the role may not use the tables, or make them.
        ServerError: the tables are of another version, or the server acknowledges what it may lose.
        ArgumentError: an argument is wrong, or psycopg is not installed.
    """

    is_shared = True
    format_name = "PostgreSQL"

    _link: "Link | None" = None
    _group: PostgresGroup | None = None

    def __init__(
        self,
        address: str = "",
        *,
        schema: str = "durus",
        readonly: bool = False,
        timeout: float | None = 60,
        prefetch: int = 100,
        prepare: bool = True,
        durability: str = "fsync",
        **parameters: str,
    ) -> None:
        if durability not in ("fsync", "os"):
            raise ArgumentError(f"durability={durability!r}: it must be 'fsync' or 'os'")
        self._sql = Statements(schema)
        self._address = address
        self._readonly = readonly
        self._timeout = float("inf") if timeout is None else timeout
        self._connector = Connector(
            address,
            parameters,
            self._sql,
            readonly=readonly,
            durability=durability,
            prepare=prepare,
            timeout=self._timeout,
        )
        self._name = self._connector.name
        self._arguments: dict[str, Any] = {
            "schema": schema,
            "timeout": timeout,
            "prefetch": prefetch,
            "prepare": prepare,
            "durability": durability,
            "readonly": readonly,
            **parameters,
        }
        self._guard = CallGuard("PostgreSQL storage")
        self._failure: DisconnectedError | None = None
        self._is_closed = False
        self._shows_snapshots = False
        self._turn: Turn | None = None
        self._prefetch = Prefetch(prefetch)
        self._untold: list[bytes] | None = []
        """What others have changed, as the next sync() must report; None for any oid."""
        self._oids = ClientOids()
        self._accesses: Callable[[], Accesses | None] = lambda: None
        self._link = self._connector.open_link()
        try:
            self._seen = self._ask_news(self._link, None).seen
            """The last commit that this client knows of; loads show nothing newer."""
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return f"PostgresStorage({self._connector.shown!r}, schema={self._sql.schema!r})"

    __repr__ = __str__

    def __del__(self) -> None:
        self.abandon()

    @property
    def made(self) -> tuple[str, ...]:
        """What was missing when this storage was opened, and was made: as "schema durus" and "table head". [PG-6]"""
        return self._connector.made

    # The connection

    def _require_link(self) -> "Link":
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)
        if self._link is None:
            raise self._closed_error()
        return self._link

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self._name} is closed here: open another storage")

    def _lose(self, error: DisconnectedError) -> DisconnectedError:
        """Note that the connection is lost; return the error that every call raises until the next sync()."""
        self._turn = None
        self._failure = DisconnectedError(f"{error}; {self.connect_again.and_run}")
        return self._failure

    def _connect_again(self) -> "Link":
        """Return a new link; what was loaded stays valid as far as the engine still knows what it was. [PG-13]"""
        if self._is_closed:
            raise self._closed_error()
        if self._link is not None:
            self._link.close()
        self._turn = None
        try:
            self._link = self._connector.open_link()
        except NetworkError as error:
            self._failure = DisconnectedError(f"connecting again failed: {error}; {self.connect_again.later}")
            raise self._failure from error
        self._failure = None
        return self._link

    def _read(self, *steps: "Step") -> "list[Rows]":
        """Run statements that change nothing that others can see before a commit."""
        from durus.postgres.link import Postponed

        link = self._require_link()
        while True:
            is_inside = link.is_in_transaction
            try:
                return link.run(*steps)
            except DisconnectedError as error:
                raise self._lose(error) from error
            except Postponed as error:
                if is_inside:
                    link.close()
                    raise self._lose(
                        DisconnectedError(f"{self._name} has rolled the transaction back: {error}")
                    ) from error

    def _start_anew(self) -> None:
        """Give up a connection on which an answer may still be on its way. [TXN-30]"""
        if self._link is not None:
            self._link.close()
        self._turn = None
        self._untold = None
        self._prefetch.forget_all()
        self._oids = ClientOids()
        if not self._is_closed:
            self._failure = DisconnectedError(
                f"the connection to {self._name} was closed because an exception interrupted a call; if that call was "
                f"a commit, it is stored completely or not at all; {self.connect_again.only}"
            )

    @property
    def failure(self) -> DurusError | None:
        return self._failure

    # What others have changed

    def _ask_news(self, link: "Link", seen: Seen | None) -> News:
        return news_of(link.run(self._news_step(seen))[0][0])

    def _news_step(self, seen: Seen | None) -> "Step":
        tid = MAX_OID if seen is None else seen.tid
        return self._sql.sync, (tid, tid, MAX_CHANGES)

    def _check_not_behind(self, seen: Seen, news: News) -> None:
        """Raise DisconnectedError if the answer came from a standby that lacks commits that were seen. [PG-15]"""
        if self._link is not None and self._link.is_standby and is_behind(seen, news):
            raise self._lose(
                DisconnectedError(f"{self._name} is a standby that lacks commit {seen.tid} and has {news.tid}")
            )

    def _take(self, news: News) -> list[bytes] | None:
        """Take in what others have committed; return the oids that are invalid now, None for any. [PG-11]"""
        self._check_not_behind(self._seen, news)
        if lost_commits(self._seen, news):
            self._tell_of_loss(news)
        invalid = invalid_oids(self._seen, news)
        if invalid is None or self._untold is None:
            self._prefetch.forget_all()
            told: list[bytes] | None = None
        else:
            self._prefetch.forget(invalid)
            told = [*self._untold, *invalid]
        if invalid:
            self._oids.note_stored(invalid)
        self._untold = []
        self._seen = news.seen
        return told

    def _tell_of_loss(self, news: News) -> None:
        """Report that acknowledged commits are gone, as after a failover to a standby that lacks them."""
        self._oids = ClientOids()
        what = "is another one" if news.epoch != self._seen.epoch else "has lost commits"
        warnings.warn(
            f"{self._name} {what}: this client has seen commit {self._seen.tid}, {self._seen.commit_id}, which is not "
            f"there any more; the last one is {news.tid}. The server was restored from a backup, or a standby took "
            "over that did not have all commits",
            DurusWarning,
            stacklevel=2,
        )

    @guarded
    def sync(self) -> list[bytes] | None:
        """Return the oids that others changed; after a lost connection, connect again. [PG-11] [PG-14]"""
        return self._take(self._ask_again_if_lost(self._begin_reading))

    def _begin_reading(self, link: "Link") -> News:
        if not self._shows_snapshots:
            return self._ask_news(link, self._seen)
        _, answer = link.run((self._sql.begin_snapshot, ()), self._news_step(self._seen))
        return news_of(answer[0])

    def _ask_again_if_lost(self, ask: "Callable[[Link], T]") -> T:
        """Ask on this link, or on a new one if it is lost."""
        if self._failure is None and self._end_transaction(self._require_link()):
            try:
                return self._ask_patiently(ask, self._require_link())
            except DisconnectedError as error:
                self._lose(error)
        link = self._connect_again()
        try:
            return self._ask_patiently(ask, link)
        except DisconnectedError as error:
            raise self._lose(error) from error

    def _ask_patiently(self, ask: "Callable[[Link], T]", link: "Link") -> T:
        """Ask, again while the engine asks for that."""
        from durus.postgres.link import Postponed

        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return ask(link)
            except Postponed as error:
                if time.monotonic() >= deadline:
                    raise self._no_turn(error) from error

    def _end_transaction(self, link: "Link") -> bool:
        """End the transaction of a turn or a snapshot, if there is one; False if the link is lost."""
        self._turn = None
        return link.roll_back()

    def _no_turn(self, error: Exception) -> ServerError:
        return ServerError(
            f"{self._name}: no commit could be made in {self._timeout:g} s, as another client holds the turn: {error}"
        )

    # For a group

    def group_storage(self) -> PostgresGroup:
        """Return what shares this storage among the clients of a server or of a SharedStorage. [PG-60]"""
        if self._group is None:
            self._group = PostgresGroup(self)
        return self._group

    def open_beside(self) -> "PostgresStorage":
        """Open another storage of this database, which loads nothing ahead."""
        return PostgresStorage(self._address, **{**self._arguments, "prefetch": 0})

    def open_for_snapshots(self) -> "PostgresStorage":
        """Open another storage of this database, for show_state()."""
        storage = PostgresStorage(self._address, **self._arguments)
        storage.use_snapshots()
        return storage

    @guarded
    def show_state(self, seen: Seen) -> News:
        """Show the last state until release(); return what was committed after `seen`."""
        self._prefetch.forget_all()
        self._seen = seen
        news = self._ask_again_if_lost(self._begin_reading)
        self._check_not_behind(seen, news)
        self._seen = news.seen
        return news

    @guarded
    def ask_news_after(self, seen: Seen) -> News:
        """Return what was committed after `seen`, and take nothing of it in."""
        news = self._ask_again_if_lost(lambda link: self._ask_news(link, seen))
        self._check_not_behind(seen, news)
        return news

    def break_off(self) -> None:
        """End the connection, in any thread: a call that waits for an answer gets DisconnectedError."""
        if self._link is not None:
            self._link.break_off()

    @property
    def seen(self) -> Seen:
        """The last commit that this client knows of; loads show nothing newer."""
        return self._seen

    @property
    def timeout(self) -> float:
        """How many seconds a commit may wait."""
        return self._timeout

    @guarded
    def take_news_of_group(self, is_late: Callable[[int], bool]) -> GroupNews:
        """Take in what others have changed, unless `is_late` refuses the number of the last commit. [PG-61]"""
        news = self._ask_again_if_lost(lambda link: self._ask_news(link, self._seen))
        if is_late(news.tid):
            return GroupNews(is_complete=False)
        return GroupNews(is_complete=True, changed=self._take(news.after(self._seen.tid)))

    @guarded
    def take_group(self, news: News, turn: Turn | None, oids: list[bytes]) -> list[bytes] | None:
        """Take in what others committed before a group; return the oids that they changed, None for any.

        What an answer to take_news_of_group() has reported is not reported again. [PG-63]

        Args:
            news: what the group met.
            turn: that of the group; None if nothing of it is stored.
            oids: what it has stored.
        """
        changed: list[bytes] | None = []
        if news.tid > self._seen.tid:
            changed = self._take(news.after(self._seen.tid)._replace(known_id=self._seen.commit_id))
        if turn is not None:
            self._accept(oids, turn)
        return changed

    @guarded
    def try_group(self, write: GroupWrite, deadline: float) -> None:
        """Store the group of `write`, by the `deadline` on the monotonic clock, in seconds.

        NetworkError, but no OutcomeUnknownError, if nothing is stored and it may be tried again.
        """
        from durus.postgres.link import Postponed

        while True:
            try:
                self._try_group(write)
                return
            except Postponed as error:
                self._turn = write.tid = None
                if time.monotonic() >= deadline:
                    raise self._no_turn(error) from error

    def _try_group(self, write: GroupWrite) -> None:
        link = self._require_link() if self._failure is None else self._connect_again()
        self._seen = write.seen
        check = write.check_values()
        if check is not None:
            write.tid = write.seen.tid + 1  # or a higher one
            stored = self._store_at_once(link, write.kept_rows(), check, write.is_given)
            if stored is not None:
                write.turn, write.news = stored
                return
            write.tid = None
        try:
            turn, news, (existing,) = self._lock_head(link, (self._sql.existing, (write.needed_oids(),)))
        except DisconnectedError as error:
            raise self._lose(error) from error
        rows = write.compare(turn, news, existing_of(existing))
        if rows:
            write.tid = turn.tid
            self._write(link, rows, turn, write.is_given)
            write.turn = turn
        elif not self._end_transaction(link):
            self._lose(DisconnectedError(f"the connection to {self._name} was lost"))

    # Loading

    def set_is_loaded(self, is_loaded: Callable[[bytes], bool]) -> None:
        self._prefetch.is_loaded = is_loaded

    def set_accesses(self, accesses: Accesses) -> None:
        self._accesses = weakref.ref(accesses)

    def expect_loads(self, oids: list[bytes]) -> None:
        remaining = iter(oids)
        while batch := list(islice(remaining, _LOADS_AT_A_TIME)):
            self._prefetch.note_family(b"".join(sorted(batch)), len(batch))

    @guarded
    def load(self, oid: bytes) -> bytes:
        self._require_link()
        record = self._prefetch.take(oid)
        if record is None:
            siblings = self._prefetch.siblings(oid)
            found = self._fetch([oid, *siblings])
            record = found.get(oid) or self._refuse(oid, found)
            if siblings:
                del found[oid]
                self._prefetch.add_siblings(found.items())
        self._prefetch.note_loaded(record)
        return record

    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        remaining = iter(oids)
        while batch := list(islice(remaining, _LOADS_AT_A_TIME)):
            yield from self._load_batch(batch)

    @guarded
    def _load_batch(self, oids: list[bytes]) -> list[bytes]:
        found = self._fetch(oids)
        return [found.get(oid) or self._refuse(oid, found) for oid in oids]

    def _fetch(self, oids: list[bytes]) -> dict[bytes, bytes | None]:
        """Return the records of these oids as far as there are any, in one statement."""
        numbers = [number for oid in oids if (number := oid_to_int(oid)) <= MAX_OID]
        return self._records_in(self._read((self._sql.load, (numbers,)))[0] if numbers else [])

    def _records_in(self, rows: "Rows") -> dict[bytes, bytes | None]:
        """Return the records in rows by their oids, None for one that is newer than the last sync: it is invalid."""
        seen = self._seen.tid
        found: dict[bytes, bytes | None] = {}
        for number, tid, data, refs in rows:
            record = record_of_row(number, data, refs)
            found[record[:8]] = record if tid <= seen else None
        return found

    def _refuse(self, oid: bytes, found: Mapping[bytes, bytes | None]) -> NoReturn:
        """Raise the error of a load without a record of this oid among what was found. [PG-12]"""
        if oid in found or self._was_removed(oid):
            raise ReadConflictError([oid])
        raise DurusKeyError(oid)

    def _was_removed(self, oid: bytes) -> bool:
        """Return whether a pack has removed a record since the last sync, or may have."""
        number, tid = oid_to_int(oid), self._seen.tid
        if number > MAX_OID:
            return False
        return bool(self._read((self._sql.was_removed, (tid, tid, number)))[0][0][0])

    @guarded
    def has_record(self, oid: bytes) -> bool:
        if oid == ROOT_OID and self._oids.knows_root:
            self._require_link()
            return True  # for ever, as a pack keeps it
        return self._has_row(oid)

    def _has_row(self, oid: bytes) -> bool:
        self._require_link()
        return oid_to_int(oid) <= MAX_OID and bool(self._read((self._sql.has_row, (oid_to_int(oid),)))[0])

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for every record in the order of the oids, or for those reached from `start_oid`,
        `batch_size` at a time.
        """
        if start_oid is not None:
            yield from super().gen_oid_record(start_oid, batch_size)
            return
        last = -1
        while page := self._load_page(last, batch_size):
            yield from page
            last = oid_to_int(page[-1][0])

    @guarded
    def _load_page(self, last: int, count: int) -> list[tuple[bytes, bytes]]:
        found = self._records_in(self._read((self._sql.scan, (last, count)))[0])
        return [(oid, record or self._refuse(oid, found)) for oid, record in found.items()]

    # Committing

    def _require_writable(self) -> "Link":
        link = self._require_link()
        if self._readonly:
            raise ReadonlyError(f"{self._name} is open with readonly=True")
        if self._shows_snapshots:
            raise ReadonlyError("a snapshot can't be changed: make changes with a connection without snapshot=True")
        return link

    @guarded
    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        """Finish the commit. [PG-20] to [PG-28]

        Args:
            handle_invalidations: as for Storage.

        Raises:
            ConflictError: others were first.
            DisconnectedError: the connection was lost; nothing is stored.
            OutcomeUnknownError: it was lost while the commit was under way, and there was no other connection in time.
            ServerError: the engine has refused the commit, or another client held the turn for too long.
        """
        from durus.postgres.link import Postponed

        rows = [row_of(record) for record in self._take_pending().values()]
        link = self._require_writable()
        if not rows:
            self._end_without_records(link, handle_invalidations)
            return
        deadline = time.monotonic() + self._timeout
        changed = self._untold
        accesses = None if handle_invalidations is None or self._turn is not None else self._accesses()
        while True:
            try:
                if accesses is not None and changed == [] and self._commit_at_once(link, rows, accesses):
                    return
                accesses = None
                turn, changed, existing = self._begin_commit(link, rows)
                try:
                    self._check_conflicts(rows, turn, changed, existing, handle_invalidations)
                except DurusError:
                    if not self._end_transaction(link):
                        self._lose(DisconnectedError(f"the connection to {self._name} was lost"))
                    raise
                self._write(link, rows, turn, self._oids.given.__contains__)
                return
            except Postponed as error:
                self._turn = None
                self._untold = changed  # to be told again, with what comes
                if time.monotonic() >= deadline:
                    raise self._no_turn(error) from error

    def _commit_at_once(self, link: "Link", rows: list[Row], accesses: Accesses) -> bool:
        """Commit in one round trip, if the engine finds no conflict; False if nothing is stored. [PG-21]"""
        accessed = accesses.accessed
        if len(accessed) > MAX_ACCESSED:
            return False
        is_given = self._oids.given.__contains__
        check = check_values(rows, self._seen, [oid_to_int(oid) for oid in accessed], is_given)
        stored = self._store_at_once(link, rows, check, is_given)
        if stored is None:
            return False
        turn, news = stored
        changed = self._take(news)
        self._accept([oid_from_int(row.oid) for row in rows], turn)
        if changed is None or changed:
            accesses.note_invalid(changed)
        return True

    def _store_at_once(
        self, link: "Link", rows: list[Row], check: tuple[object, ...], is_given: Callable[[bytes], bool]
    ) -> tuple[Turn, News] | None:
        """Commit in one round trip, if the engine finds no conflict. [PG-21]

        Args:
            link: the connection.
            rows: what is committed.
            check: what the engine is to find: check_values().
            is_given: as for conflicts().

        Returns:
            The turn, and what others have committed before it; None if nothing is stored.
        """
        from durus.postgres.link import NO_COMMIT, SqlError

        if not (link.is_open and link.is_quiet):
            return None  # if the connection is lost, it is while nothing can be stored
        sql, commit_id = self._sql, uuid4()
        steps = *self._steps_to_take_head(), (sql.check, check), *self._steps_to_write(rows, commit_id, is_given)
        try:
            _, _, _, taken, answer, *_ = link.run(*steps, (sql.commit, ()))
        except SqlError as error:
            if error.state not in NO_COMMIT:
                raise
            return None
        except DisconnectedError as error:
            tid, news = self._settle(commit_id, error)
        else:
            ((tid,),) = taken
            news = news_of(answer[0])
            if link.warning:
                self._settle_after_warning(link, commit_id)
            self._trim(self._require_link(), tid)
        return Turn(tid, commit_id, 0), news

    def _end_without_records(self, link: "Link", handle_invalidations: InvalidationHandler | None) -> None:
        try:
            self._end_transaction(link)
            changed = self._take(self._ask_news(link, self._seen))
        except DisconnectedError as error:
            raise self._lose(error) from error
        self._tell(changed, handle_invalidations)

    def _tell(self, changed: list[bytes] | None, handle_invalidations: InvalidationHandler | None) -> None:
        if handle_invalidations is None:
            self._untold = changed
        elif changed is None or changed:
            handle_invalidations(changed)

    def _begin_commit(self, link: "Link", rows: list[Row]) -> "tuple[Turn, list[bytes] | None, Rows]":
        """Take the turn; return it, what others have changed, and which rows exist of those that the commit needs."""
        existing = self._sql.existing, (needed_oids(rows),)
        try:
            if self._turn is not None and link.is_in_transaction:
                return self._turn, [], link.run(existing)[0]
            turn, changed, (found,) = self._take_head(link, existing)
        except DisconnectedError as error:
            raise self._lose(error) from error
        return turn, changed, found

    def _take_head(self, link: "Link", *more: "Step") -> "tuple[Turn, list[bytes] | None, list[Rows]]":
        """Take the turn, and take in what others have changed; run more statements after that."""
        turn, news, rest = self._lock_head(link, *more)
        return turn, self._take(news), rest

    def _lock_head(self, link: "Link", *more: "Step") -> "tuple[Turn, News, list[Rows]]":
        """Begin a transaction of the engine, and take the lock of the head. [PG-20]

        The lock is taken by a statement of its own: one that waits for it shows what was there before it waited.
        """
        _, _, _, taken, answer, *rest = link.run(*self._steps_to_take_head(), *more)
        ((tid,),) = taken
        news = news_of(answer[0])
        return self._turn_at(link, tid, news), news, rest

    def _steps_to_take_head(self) -> "tuple[Step, ...]":
        return *self._steps_to_begin(), (self._sql.take_head, ()), self._news_step(self._seen)

    def _steps_to_begin(self) -> "tuple[Step, ...]":
        return (self._sql.begin, ()), (self._sql.lock_timeout, ()), (self._sql.idle_timeout, ())

    def _turn_at(self, link: "Link", tid: int, news: News) -> Turn:
        if tid != news.tid + 1:
            link.roll_back()
            raise ServerError(f"{self._name} is damaged: its last commit is {news.tid}, and its head is at {tid - 1}")
        return Turn(tid, uuid4(), news.sweep_tid)

    def _check_conflicts(
        self,
        rows: list[Row],
        turn: Turn,
        changed: list[bytes] | None,
        existing: "Rows",
        handle_invalidations: InvalidationHandler | None,
    ) -> None:
        self._tell(changed, handle_invalidations)
        if changed is None:
            self._untold = None
            raise WriteConflictError([oid_from_int(row.oid) for row in rows])
        found = conflicts(rows, existing_of(existing), turn.sweep_tid, changed, self._oids.given.__contains__)
        if found:
            if any(oid in self._oids.given for oid in found if oid != ROOT_OID):
                self._untold = None  # another client has used what was given here, so its oids are worth nothing
                self._oids = ClientOids()
            raise WriteConflictError(found)

    def _write(self, link: "Link", rows: list[Row], turn: Turn, is_given: Callable[[bytes], bool]) -> None:
        """Write the records, and commit. [PG-21]"""
        try:
            steps = *self._steps_to_write(rows, turn.commit_id, is_given), *self._steps_to_trim(turn.tid)
            link.run(*steps, (self._sql.commit, ()))
        except DisconnectedError as error:
            self._settle(turn.commit_id, error)
        else:
            if link.warning:
                self._settle_after_warning(link, turn.commit_id)
        self._turn = None
        self._accept([oid_from_int(row.oid) for row in rows], turn)

    def _steps_to_write(self, rows: list[Row], commit_id: UUID, is_given: Callable[[bytes], bool]) -> "list[Step]":
        sql = self._sql
        given = [is_given(oid_from_int(row.oid)) for row in rows]
        steps: list[Step] = [(sql.add, parameters(chunk)) for chunk in chunks(compress(rows, given))]
        steps += [(sql.put, parameters(chunk)) for chunk in chunks(compress(rows, map(not_, given)))]
        steps.append((sql.add_changes, ([row.oid for row in rows],)))
        steps.append((sql.add_txn, (commit_id,)))
        return steps

    def _steps_to_trim(self, tid: int) -> "list[Step]":
        """Return what trims the log of changes after this commit; nothing after most of them. [PG-29]"""
        if tid % _TRIM_EVERY:
            return []
        sql = self._sql
        return [(sql.move_log, (_TRIM_AT_MOST, _LOG_AGE)), (sql.trim_changes, ()), (sql.trim_txns, ())]

    def _trim(self, link: "Link", tid: int) -> None:
        """Trim the log in a transaction of its own; the next client does what this one can't."""
        from durus.postgres.link import Postponed

        steps = self._steps_to_trim(tid)
        try:
            if steps:
                link.run(*self._steps_to_begin(), *steps, (self._sql.commit, ()))
        except (Postponed, ServerError) as error:
            _logger.warning("%s: the log of changes was not trimmed: %s", self._name, error)
        except DisconnectedError as error:
            self._lose(error)

    def _accept(self, oids: list[bytes], turn: Turn) -> None:
        self._seen = Seen(turn.tid, turn.commit_id, self._seen.epoch)
        self._note_stored(oids)

    def _note_stored(self, oids: list[bytes]) -> None:
        self._prefetch.forget(oids)
        self._oids.note_stored(oids)

    def _settle_after_warning(self, link: "Link", commit_id: UUID) -> None:
        """Wait again for the standbys, for which the engine has not waited."""
        link.close()
        self._settle(commit_id, DisconnectedError(f"{self._name} has warned: {link.warning}"))

    def _settle(self, commit_id: UUID, error: DisconnectedError) -> tuple[int, News]:
        """Find out, on a new connection, what became of a commit. [PG-26]

        Returns:
            Its number, if it is stored, and what others have committed before it.
        """
        self._lose(error)
        deadline = time.monotonic() + self._timeout
        pause = FIRST_PAUSE
        while True:
            try:
                link, tid, news = self._connector.settle_commit(commit_id, self._seen)
                break
            except NetworkError as failure:
                reason: Exception = failure
            except ServerError as failure:
                reason, deadline = failure, 0
            if time.monotonic() + pause >= deadline:
                self._failure = OutcomeUnknownError(
                    f"{error} during a commit, which is stored completely or not at all; it could "
                    f"not be found out which: {reason}; {self.connect_again.and_look}"
                )
                raise self._failure from error
            _sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)
        if tid is None:
            link.close()
            raise self._lose(DisconnectedError(f"{error} before the commit was made, and nothing of it is stored"))
        self._link, self._failure = link, None
        return tid, news.before(tid)

    # Turns and snapshots

    @guarded
    def take_turn(self) -> list[bytes] | None:
        """Sync, and keep others from committing until the next end() or release(). [PG-27]"""
        if self._readonly or self._shows_snapshots:
            self._require_writable()
        turns: list[Turn] = []

        def ask(link: "Link") -> News:
            turn, news, _ = self._lock_head(link)
            turns.append(turn)
            return news

        news = self._ask_again_if_lost(ask)
        self._turn = turns[-1]
        return self._take(news)

    @guarded
    def use_snapshots(self) -> bool:
        """Have each sync() begin a read-only transaction of the engine, which lasts until release(). [PG-28]"""
        self._shows_snapshots = True
        return True

    def release(self) -> None:
        if self._failure is None and self._link is not None:
            self._release()

    @guarded
    def _release(self) -> None:
        if self._link is not None and not self._end_transaction(self._link):
            self._lose(DisconnectedError(f"the connection to {self._name} was lost"))

    def abandon(self) -> None:
        if self._link is not None and not self._guard.is_foreign:
            self._link.close()
            if not self._is_closed:
                self._lose(
                    DisconnectedError(f"the connection to {self._name} was dropped before its transaction ended")
                )
        if self._group is not None:
            self._group.abandon()

    def as_of_now(self) -> "PostgresStorage":
        storage = PostgresStorage(self._address, **{**self._arguments, "readonly": True})
        storage.use_snapshots()
        storage.sync()
        return storage

    # Oids

    @guarded
    def new_oid(self) -> bytes:
        """Return an oid of a block that this client has for itself, or that of the root if there is none. [PG-30]"""
        self._require_writable()
        oids = self._oids
        if not oids.knows_root and ROOT_OID not in oids.given:
            oids.knows_root = self._has_row(ROOT_OID)
            if not oids.knows_root:
                return oids.give_root()
        return oids.give(self._take_block)

    def _take_block(self, size: int) -> range:
        """Take a block of oids, which lasts even if the transaction of a turn is rolled back."""
        step = self._sql.new_block, (size,)
        if self._turn is None:
            rows = self._read(step)[0]
        else:
            try:
                with contextlib.closing(self._connector.new_link()) as other:
                    rows = other.run(step)[0]
            except DisconnectedError as error:
                raise self._lose(error) from error
        end = int(rows[0][0])
        if end > MAX_OID:
            raise ServerError(f"{self._name} has no more oids: they end at {MAX_OID}")
        return range(end - size, end)

    # Packing, and taking in a whole database

    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs in steps, or continues with a pack that was interrupted. [PG-40]

        All clients may work meanwhile.
        """
        from durus.postgres.packing import gen_pack

        steps = gen_pack(self._run_of_pack, self._roll_back_pack, self._sql, self._name)
        while (progress := self._pack_a_step(steps)) is not None:
            yield progress

    @guarded
    def _pack_a_step(self, steps: Iterator[Progress]) -> Progress | None:
        if self._require_writable().is_in_transaction:
            raise TransactionError("a pack can't continue in an exclusive transaction: end that first")
        return next(steps, None)

    def _run_of_pack(self, *steps: "Step") -> "list[Rows]":
        try:
            return self._require_link().run(*steps, prepare=False)
        except DisconnectedError as error:
            raise self._lose(error) from error

    def _roll_back_pack(self) -> None:
        self._end_transaction(self._require_link())

    @guarded
    def take_records(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Store the records of another database in this one, which must be empty, in one transaction. [PG-50]

        Args:
            records: pairs of oid and record. Each reference must lead to one of them.

        Raises:
            ServerError: there are objects already, or the engine refuses something.
        """
        sql, link = self._sql, self._require_writable()
        try:
            turn, _, (found,) = self._take_head(link, (sql.any_row, ()))
            if found:
                link.roll_back()
                raise ServerError(f"{self._name} has objects already; give another schema, or drop that one")
            last = -1
            for chunk in chunks(row_of(record) for _, record in records):
                last = max(last, *(row.oid for row in chunk))
                link.run((sql.put, parameters(chunk)))
            link.run(
                (sql.begin_log, ()),
                (sql.raise_block, (last + 1, last + 1)),
                (sql.add_txn, (turn.commit_id,)),
                (sql.commit, ()),
            )
        except DisconnectedError as error:
            raise self._lose(error) from error
        except DurusError:
            link.roll_back()
            raise
        self._accept([ROOT_OID], turn)

    # The end

    def close(self) -> None:
        self._is_closed = True
        if self._link is not None and not self._guard.is_foreign:
            link, self._link = self._link, None
            link.close()
            self._failure = None
        if self._group is not None:
            self._group.close()


class _Opener:
    """What the entry points of the group `durus.storages` lead to. [DB-7]"""

    options: Mapping[str, type[bool] | type[int] | type[float] | type[str]] = {
        **dict.fromkeys(LIBPQ, str),
        "connect_timeout": float,
        "durability": str,
        "prefetch": int,
        "prepare": bool,
        "readonly": bool,
        "schema": str,
        "timeout": float,
    }

    def __call__(self, address: str, /, **options: bool | int | float | str | None) -> Callable[[], PostgresStorage]:
        arguments: dict[str, Any] = dict(options)
        if "connect_timeout" in arguments:
            seconds = arguments["connect_timeout"]
            arguments["connect_timeout"] = "0" if seconds is None else str(max(2, math.ceil(seconds)))
        return lambda: PostgresStorage(address, **arguments)


open_postgres = _Opener()
"""Makes the storages of durus.open("postgresql://...")."""
