"""Every SQL statement of a PostgresStorage, and what each is for. Statements PG-1 to PG-3.

They keep to what the engines with PostgreSQL's protocol have in common: tables, row locks, and statements that see
what was committed before they began. Placeholders are those of psycopg.
"""

import re

from durus.error import ArgumentError

VERSION = 1
"""The version of the tables. [PG-2]"""
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_TABLES = {
    "object": "oid bigint PRIMARY KEY, tid bigint NOT NULL, data bytea NOT NULL, refs bigint[] NOT NULL",
    "change": "tid bigint NOT NULL, oid bigint NOT NULL, PRIMARY KEY (tid, oid)",
    "txn": "tid bigint PRIMARY KEY, commit_id uuid NOT NULL UNIQUE, time timestamp with time zone NOT NULL",
    "oid_block": "id bigint PRIMARY KEY, next bigint NOT NULL",
    "mark": "oid bigint PRIMARY KEY, step bigint NOT NULL",
    "pack": "id bigint PRIMARY KEY, from_tid bigint NOT NULL, step bigint NOT NULL, after bigint NOT NULL, "
    "followed_tid bigint NOT NULL, followed_oid bigint NOT NULL, swept bigint NOT NULL",
    "head": "id bigint PRIMARY KEY, version bigint NOT NULL, epoch uuid NOT NULL, tid bigint NOT NULL, "
    "log_from bigint NOT NULL, sweep_tid bigint NOT NULL",
}


class Statements:
    """The statements for the tables in one schema; ArgumentError for a name that would have to be quoted."""

    def __init__(self, schema: str) -> None:
        if not _SCHEMA.fullmatch(schema):
            raise ArgumentError(
                f"the schema {schema!r} has a name that is not made of lower-case letters, digits and _, up to 63"
            )
        self.schema = schema

        def sql(text: str) -> bytes:
            return text.replace("{s}", schema).encode()

        # Making the tables
        self.there = (
            b"SELECT CAST(c.relname AS text) FROM pg_catalog.pg_namespace n "
            b"LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid WHERE n.nspname = %s"
        )
        self.make_schema = sql("CREATE SCHEMA IF NOT EXISTS {s}")
        self.relations = {
            **{
                f"table {name}": sql(f"CREATE TABLE IF NOT EXISTS {{s}}.{name} ({columns})")
                for name, columns in _TABLES.items()
            },
            "index mark_step": sql("CREATE INDEX IF NOT EXISTS mark_step ON {s}.mark (step, oid)"),
        }
        """What makes each table and index that must be there."""
        self.first_txn = sql("INSERT INTO {s}.txn (tid, commit_id, time) VALUES (0, %s, now()) ON CONFLICT DO NOTHING")
        self.first_block = sql("INSERT INTO {s}.oid_block (id, next) VALUES (0, 1) ON CONFLICT DO NOTHING")
        self.first_head = sql(
            "INSERT INTO {s}.head (id, version, epoch, tid, log_from, sweep_tid) "
            f"VALUES (0, {VERSION}, %s, 0, 0, 0) ON CONFLICT DO NOTHING"
        )
        self.hello = sql("SELECT version, current_setting('synchronous_commit') FROM {s}.head WHERE id = 0")

        # Transactions of the engine
        self.begin = b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
        self.begin_snapshot = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        self.lock_timeout = b"SET LOCAL lock_timeout = '5s'"
        self.idle_timeout = b"SET LOCAL idle_in_transaction_session_timeout = '10s'"
        self.commit = b"COMMIT"
        self.rollback = b"ROLLBACK"
        self.take_head = sql("UPDATE {s}.head SET tid = tid + 1 WHERE id = 0 RETURNING tid")
        self.lock_head = sql("SELECT tid, epoch FROM {s}.head WHERE id = 0 FOR UPDATE")

        # Reading
        self.sync = sql(
            "SELECT h.epoch, h.log_from, h.sweep_tid, t.tid, t.commit_id, "
            "(SELECT commit_id FROM {s}.txn WHERE tid = %s), c.tid, c.oid "
            "FROM {s}.head h, (SELECT tid, commit_id FROM {s}.txn ORDER BY tid DESC LIMIT 1) t, "
            "(SELECT array_agg(n.tid) AS tid, array_agg(n.oid) AS oid FROM "
            "(SELECT tid, oid FROM {s}.change WHERE tid > %s ORDER BY tid LIMIT %s) n) c WHERE h.id = 0"
        )
        self.load = sql("SELECT oid, tid, data, refs FROM {s}.object WHERE oid = ANY(%s::bigint[])")
        self.scan = sql("SELECT oid, tid, data, refs FROM {s}.object WHERE oid > %s ORDER BY oid LIMIT %s")
        self.has_row = sql("SELECT 1 FROM {s}.object WHERE oid = %s")
        self.was_removed = sql(
            "SELECT h.log_from > %s OR EXISTS (SELECT 1 FROM {s}.change WHERE tid > %s AND oid = %s) "
            "FROM {s}.head h WHERE h.id = 0"
        )

        # Committing
        self.new_block = sql("UPDATE {s}.oid_block SET next = next + %s WHERE id = 0 RETURNING next")
        self.existing = sql(
            "SELECT o.oid, o.tid, m.oid IS NOT NULL FROM {s}.object o LEFT JOIN {s}.mark m ON m.oid = o.oid "
            "WHERE o.oid = ANY(%s::bigint[])"
        )
        add = (
            "INSERT INTO {s}.object (oid, tid, data, refs) "
            "SELECT n.oid, h.tid, n.data, n.refs::bigint[] "
            "FROM {s}.head h, unnest(%s::bigint[], %s::bytea[], %s::text[]) AS n (oid, data, refs) WHERE h.id = 0"
        )
        self.add = sql(add)
        self.put = sql(
            f"{add} ON CONFLICT (oid) DO UPDATE SET tid = excluded.tid, data = excluded.data, refs = excluded.refs"
        )
        self.add_changes = sql(
            "INSERT INTO {s}.change (tid, oid) "
            "SELECT h.tid, n.oid FROM {s}.head h, unnest(%s::bigint[]) AS n (oid) WHERE h.id = 0"
        )
        self.add_txn = sql(
            "INSERT INTO {s}.txn (tid, commit_id, time) SELECT tid, %s, now() FROM {s}.head WHERE id = 0"
        )
        # A division by zero, which ends the transaction, unless there is no conflict; or `add` fails.
        self.check = sql(
            "SELECT 1 / count(*) FROM {s}.head h, {s}.txn t WHERE h.id = 0 AND t.tid = h.tid - 1 "
            "AND h.epoch = %s AND h.log_from <= %s "
            "AND EXISTS (SELECT 1 FROM {s}.txn n WHERE n.tid = %s AND n.commit_id = %s) "
            "AND NOT EXISTS (SELECT 1 FROM {s}.change c WHERE c.tid > %s AND c.oid = ANY(%s::bigint[])) "
            "AND %s = (SELECT count(*) FROM {s}.object o WHERE o.oid = ANY(%s::bigint[]) "
            "AND (o.tid > h.sweep_tid OR EXISTS (SELECT 1 FROM {s}.mark m WHERE m.oid = o.oid)))"
        )
        # One without changes took the place of a commit that was not there.
        self.find_commit = sql(
            "SELECT t.tid, EXISTS (SELECT 1 FROM {s}.change c WHERE c.tid = t.tid) "
            "FROM {s}.txn t WHERE t.commit_id = %s"
        )
        self.move_log = sql(
            "UPDATE {s}.head SET log_from = coalesce((SELECT max(tid) FROM {s}.txn WHERE tid > log_from "
            "AND tid <= log_from + %s AND time < now() - CAST(%s AS interval)), log_from) WHERE id = 0"
        )
        self.trim_changes = sql("DELETE FROM {s}.change WHERE tid <= (SELECT log_from FROM {s}.head WHERE id = 0)")
        self.trim_txns = sql("DELETE FROM {s}.txn WHERE tid < (SELECT log_from FROM {s}.head WHERE id = 0)")

        # Taking in a whole database
        self.any_row = sql("SELECT oid FROM {s}.object LIMIT 1")
        self.begin_log = sql("UPDATE {s}.head SET log_from = tid WHERE id = 0")
        self.raise_block = sql("UPDATE {s}.oid_block SET next = %s WHERE id = 0 AND next < %s")

        # Packing
        self.begin_pack = sql(
            "INSERT INTO {s}.pack (id, from_tid, step, after, followed_tid, followed_oid, swept) "
            "SELECT 0, max(tid), 0, -1, max(tid), 9223372036854775807, -1 FROM {s}.txn "
            "ON CONFLICT DO NOTHING RETURNING id"
        )
        self.clear_marks = sql("TRUNCATE {s}.mark")
        self.mark_root = sql("INSERT INTO {s}.mark (oid, step) SELECT oid, 1 FROM {s}.object WHERE oid = 0")
        self.lock_pack = sql(
            "SELECT from_tid, step, after, followed_tid, followed_oid, swept FROM {s}.pack WHERE id = 0 FOR UPDATE"
        )
        self.next_marks = sql(
            "SELECT step, oid FROM {s}.mark WHERE (step, oid) > ((SELECT step FROM {s}.pack WHERE id = 0), "
            "(SELECT after FROM {s}.pack WHERE id = 0)) ORDER BY step, oid LIMIT %s"
        )
        self.count_refs = sql(
            "SELECT oid, coalesce(array_length(refs, 1), 0) FROM {s}.object WHERE oid = ANY(%s::bigint[])"
        )
        self.referrer = sql("SELECT oid FROM {s}.object WHERE %s = ANY(refs) LIMIT 1")
        self.mark_refs = sql(
            "INSERT INTO {s}.mark (oid, step) SELECT DISTINCT unnest(refs) AS oid, CAST(%s AS bigint) FROM {s}.object "
            "WHERE oid = ANY(%s::bigint[]) ORDER BY oid ON CONFLICT DO NOTHING"
        )
        self.mark_oids = sql(
            "INSERT INTO {s}.mark (oid, step) SELECT oid, %s FROM {s}.object WHERE oid = ANY(%s::bigint[]) "
            "ON CONFLICT DO NOTHING"
        )
        self.next_changes = sql(
            "SELECT tid, oid FROM {s}.change WHERE (tid, oid) > (%s, %s) ORDER BY tid, oid LIMIT %s"
        )
        self.note_marked = sql("UPDATE {s}.pack SET step = %s, after = %s WHERE id = 0")
        self.note_followed = sql("UPDATE {s}.pack SET followed_tid = %s, followed_oid = %s WHERE id = 0")
        self.log_from = sql("SELECT log_from, sweep_tid FROM {s}.head WHERE id = 0")
        self.begin_sweep = sql("UPDATE {s}.head SET sweep_tid = %s WHERE id = 0")
        self.window_end = sql(
            "SELECT max(w.oid) FROM (SELECT oid FROM {s}.object "
            "WHERE oid > (SELECT swept FROM {s}.pack WHERE id = 0) ORDER BY oid LIMIT %s) w"
        )
        # The window is given twice, so that the engine reads no more of the marks.
        self.garbage = sql(
            "SELECT o.oid FROM {s}.object o WHERE o.oid > %s AND o.oid <= %s AND o.tid <= %s "
            "AND NOT EXISTS (SELECT 1 FROM {s}.mark m WHERE m.oid > %s AND m.oid <= %s AND m.oid = o.oid)"
        )
        self.remove = sql("DELETE FROM {s}.object WHERE oid = ANY(%s::bigint[])")
        self.note_swept = sql("UPDATE {s}.pack SET swept = %s WHERE id = 0")
        self.end_pack = sql("DELETE FROM {s}.pack WHERE id = 0")
