"""Where the tables are: reaching the server, making them, looking for a commit. Statements PG-2, PG-6, PG-16, PG-26."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode
from uuid import UUID, uuid4

from durus.error import ArgumentError, DisconnectedError, ServerError
from durus.postgres.decisions import MAX_CHANGES, News, Seen, news_of
from durus.postgres.statements import VERSION, Statements
from durus.text import command, without_password

if TYPE_CHECKING:
    from durus.postgres.link import Link

_LEAST_PATIENCE = 30.0
"""For how many seconds a server may be silent, however short the timeout of the storage is. [PG-16]"""

LIBPQ = [
    "application_name",
    "channel_binding",
    "dbname",
    "gssencmode",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "options",
    "passfile",
    "password",
    "port",
    "require_auth",
    "service",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
]
"""The parameters of libpq that an address may have in its query."""


class Connector:
    """Opens connections to the tables in one schema, and makes the tables if they are not there.

    Args:
        address: where the database is.
        parameters: those of libpq.
        sql: the statements for the schema.
        readonly: make nothing; the server may be a standby.
        durability: "fsync", to refuse a server that acknowledges what it may lose, or "os".
        prepare: False if there is a pooler between that does not support prepared statements.
        timeout: how long a server may be silent, in seconds, if that is more than the least patience.
    """

    made: tuple[str, ...] = ()
    """What was missing, and was made: as "schema durus" and "table head". [PG-6]"""

    def __init__(
        self,
        address: str,
        parameters: Mapping[str, str],
        sql: Statements,
        *,
        readonly: bool,
        durability: str,
        prepare: bool,
        timeout: float,
    ) -> None:
        self._address = address
        self._parameters = _with_defaults(parameters, readonly)
        self._sql = sql
        self._readonly = readonly
        self._durability = durability
        self._prepare = prepare
        self._timeout = timeout
        query = urlencode(parameters, safe="/,", quote_via=quote)
        self.shown = without_password(f"{address}?{query}") if "://" in address else "of the parameters given"
        """Where the database is, for messages; the form without a scheme may have a password in any place."""
        self.name = f"the PostgreSQL database {self.shown} (schema {sql.schema})"

    def new_link(self) -> "Link":
        """Connect; ServerUnreachableError if there is no such server."""
        try:
            from durus.postgres.link import Link  # psycopg is in an extra
        except ImportError as error:
            raise ArgumentError(f"{self.name}: this needs psycopg, pip install 'durus[postgres]': {error}") from error
        patience = max(self._timeout, _LEAST_PATIENCE)
        return Link(self._address, self._parameters, self.name, self._prepare, patience)

    def open_link(self) -> "Link":
        """Connect, and make the tables if they are not there. [PG-2]"""
        link = self.new_link()
        try:
            row = self._greeting(link)
            if row is None and not self._readonly:
                self._make_tables(link)
                row = self._greeting(link)
            self._check_greeting(row)
        except BaseException:
            link.close()
            raise
        return link

    def _greeting(self, link: "Link") -> tuple[Any, ...] | None:
        """Return the version and a setting; None if the tables are not there, or not complete."""
        from durus.postgres.link import MISSING_TABLE, SqlError

        try:
            rows = link.run((self._sql.hello, ()))[0]
        except SqlError as error:
            if error.state not in MISSING_TABLE:
                raise
            return None
        return rows[0] if rows else None

    def _make_tables(self, link: "Link") -> None:
        """Make what is missing of the schema, at the same time as other clients, perhaps. [PG-6]"""
        from durus.postgres.link import ALREADY_MADE, SqlError

        sql, first = self._sql, uuid4()
        there = link.run((sql.there, (sql.schema,)))[0]
        names = {name for (name,) in there}
        missing = {} if there else {f"schema {sql.schema}": sql.make_schema}
        missing |= {what: make for what, make in sql.relations.items() if what.split()[1] not in names}
        begin = [(sql.begin, ()), *((make, ()) for make in missing.values()), (sql.first_block, ())]
        try:
            link.run(*begin, (sql.first_txn, (first,)), (sql.first_head, (first,)), (sql.commit, ()))
        except SqlError as error:
            if error.state not in ALREADY_MADE:
                raise
        else:
            self.made = tuple(missing)

    def _how_to_init(self) -> str:
        schema = self._sql.schema
        mark = "&" if "?" in self.shown else "?"
        return command("init", self.shown + ("" if schema == "durus" else f"{mark}schema={quote(schema)}"))

    def _check_greeting(self, row: tuple[Any, ...] | None) -> None:
        if row is None:
            raise ServerError(
                f"{self.name} has no tables of Durus: make them with {self._how_to_init()}, or open it without "
                "readonly=True"
            )
        version, synchronous = row
        if version != VERSION:
            raise ServerError(
                f"{self.name} has tables of version {version}, and this program knows version {VERSION}: use a "
                "release of Durus that knows both"
            )
        if synchronous == "off" and self._durability == "fsync" and not self._readonly:
            raise ServerError(
                f"{self.name} has synchronous_commit=off, so it acknowledges commits that a crash loses: set it to "
                "on for this role, or open the storage with durability='os'"
            )

    def settle_commit(self, commit_id: UUID, seen: Seen) -> "tuple[Link, int | None, News]":
        """Connect, and find out if a commit is stored. [PG-26]

        Args:
            commit_id: that of the commit. If it is not there, an empty commit gets this id, which no other has then.
            seen: what its client has seen of the database in which it was to be.

        Returns:
            The connection, the number of the commit, and what was committed since `seen`. The number is None if the
            commit is not stored, which it never will be then.
        """
        from durus.postgres.link import Postponed

        sql = self._sql
        link = self.new_link()
        try:
            begin = (sql.begin, ()), (sql.lock_timeout, ()), (sql.idle_timeout, ())
            steps = (sql.lock_head, ()), (sql.find_commit, (commit_id,)), (sql.sync, (seen.tid, seen.tid, MAX_CHANGES))
            *_, head, found, answer = link.run(*begin, *steps)
            if not head or head[0][1] != seen.epoch:
                raise ServerError(f"{self.name} is another database now")
            if not found:
                link.run((sql.take_head, ()), (sql.add_txn, (commit_id,)), (sql.commit, ()))
            else:
                link.run((sql.commit, ()))  # which waits for the standbys, and so for what was found
            if link.warning:
                raise DisconnectedError(f"{self.name} has warned: {link.warning}")
        except Postponed as error:
            link.close()
            raise DisconnectedError(f"another client holds the turn: {error}") from error
        except BaseException:
            link.close()
            raise
        return link, found[0][0] if found and found[0][1] else None, news_of(answer[0])


def _with_defaults(parameters: Mapping[str, str], readonly: bool) -> dict[str, str]:
    """Return parameters of libpq that find out soon that a server is gone, and that it is a standby."""
    usual = {"fallback_application_name": "durus", "connect_timeout": "10", "tcp_user_timeout": "30000"}
    usual |= {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}
    if not readonly:
        usual["target_session_attrs"] = "read-write"
    return {**usual, **parameters}
