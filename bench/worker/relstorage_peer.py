"""ZODB with RelStorage, on SQLite. bench/engines.py has RelStorage on PostgreSQL."""

from relstorage.adapters.sqlite.adapter import Sqlite3Adapter
from relstorage.options import Options
from relstorage.storage import RelStorage

from zodb_peer import Group, Item, Tree, ZodbDatabase, range_of

__all__ = ["Group", "Item", "Tree", "open", "range_of"]


def open(path: str, durable: bool) -> ZodbDatabase:
    options = Options(keep_history=False)
    adapter = Sqlite3Adapter(path, pragmas={"synchronous": "full" if durable else "off"}, options=options)
    return ZodbDatabase(RelStorage(adapter, options=options))
