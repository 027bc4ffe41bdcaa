"""What a statement may be made of so that every engine with PostgreSQL's protocol can be expected to run it. [PG-5]

A list of what is allowed: a word that is not on it is a new demand on the engines, which needs thought, and a line in
docs/howto/postgres.md. `forbid_others()` has every statement looked at that a storage runs, in all tests with an
engine.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durus.postgres.link import Rows, Step

_BEGINNINGS = (
    "begin isolation level read committed read write",
    "begin isolation level repeatable read read only",
    "commit",
    "rollback",
    "set local lock_timeout",
    "set local idle_in_transaction_session_timeout",
    "select",
    "insert into",
    "update",
    "delete from",
    "truncate",
    "create schema if not exists",
    "create table if not exists",
    "create index if not exists",
)
_KEYWORDS = """
    and any array as asc begin by cast commit committed conflict create delete desc distinct do exists for from if in
    index insert into is isolation join key left level limit local not nothing null on only or order primary read
    repeatable returning rollback schema select set table truncate unique update values where write
"""
_TYPES = "bigint bytea interval text time timestamp uuid with zone"
_FUNCTIONS = "array_agg array_length coalesce count current_setting max now unnest"
_SETTINGS = "idle_in_transaction_session_timeout lock_timeout"
_CATALOG = "pg_catalog pg_class pg_namespace nspname relname relnamespace"
_TABLES = "change head mark mark_step object oid_block pack txn"
_COLUMNS = """
    after commit_id data epoch followed_oid followed_tid from_tid id log_from next oid refs step sweep_tid swept tid
    time version
"""
_ALIASES = "c excluded h m n o t w"
_ALLOWED = frozenset(
    " ".join((_KEYWORDS, _TYPES, _FUNCTIONS, _SETTINGS, _CATALOG, _TABLES, _COLUMNS, _ALIASES)).split()
)

_NAMES = "|".join(_TABLES.split())
_SCHEMA = re.compile(rf"\b[a-z_][a-z0-9_]*\.(?=(?:{_NAMES})\b)|(?<=^create schema if not exists )\w+$")
"""The name of the schema, wherever it stands."""


def outside(statement: bytes) -> list[str]:
    """Return what a statement has that is not in common to the engines; nothing if it is portable."""
    text = " ".join(re.sub(r"'[^']*'|%s", " ", statement.decode()).lower().split())
    text = _SCHEMA.sub("", text)
    found = [] if text.startswith(_BEGINNINGS) else [text[:40]]
    found += [word for word in re.findall(r"[a-z_][a-z0-9_]*", text) if word not in _ALLOWED]
    return found + re.findall(r"[^\sa-z0-9_(),.=<>+*/:\[\]-]|\bfor (?!update$)\w+", text)


def forbid_others() -> None:
    """Have each statement that a Link runs looked at; one that is not portable is an error of the test."""
    from durus.postgres.link import Link

    run = Link.run

    def looking(self: Link, *steps: "Step", prepare: bool | None = None) -> "list[Rows]":
        for statement, _ in steps:
            found = outside(statement)
            assert not found, f"{statement!r} has what not all engines have: {found}"
        return run(self, *steps, prepare=prepare)

    Link.run = looking  # type: ignore[method-assign]  # it takes and returns the same
