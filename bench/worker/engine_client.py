"""One client of a database that many share, for bench/engines.py. It runs in the venv of what it measures.

    python engine_client.py KIND ADDRESS WORK NUMBER COUNT

prints as JSON how many seconds COUNT of the work took, and what else was measured, after a line of the standard input
has told to begin.
"""

import json
import sys
import time
from typing import Any

from peak import peak_memory

KIND, ADDRESS, WORK, NUMBER, COUNT = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])

connection: Any
if KIND == "durus":
    import durus
    from durus import btree, persistent, persistent_dict
    from durus.client_storage import ClientStorage
    from durus.opening import open_other_storage

    BTree: Any = btree.BTree
    Base: Any = persistent.Persistent
    Mapping: Any = persistent_dict.PersistentDict
    storage: Any = open_other_storage(ADDRESS) if "://" in ADDRESS else ClientStorage(address=ADDRESS)
    connection = durus.Connection(storage, cache_size=1_000_000)
    root: Any = connection.get_root()
    commit = connection.commit
else:
    import transaction
    import ZODB
    from BTrees.OOBTree import OOBTree
    from persistent import Persistent
    from persistent.mapping import PersistentMapping
    from relstorage.adapters.postgresql import PostgreSQLAdapter
    from relstorage.options import Options
    from relstorage.storage import RelStorage

    BTree, Base, Mapping = OOBTree, Persistent, PersistentMapping
    options = Options(cache_local_mb=100, keep_history=False)
    adapter = PostgreSQLAdapter(dsn=ADDRESS, options=options)
    database: Any = ZODB.DB(RelStorage(adapter, options=options), cache_size=1_000_000)
    connection = database.open()
    root = connection.root()
    commit = transaction.commit


class Item(Base):  # type: ignore[misc]  # one of two classes
    def __init__(self, n: int) -> None:
        self.n = n
        self.text = "x" * 100


def fill() -> None:
    """Make COUNT items in a tree, in the place of as many, which are not reached any more."""
    root["items"] = tree = BTree()
    for n in range(COUNT):
        tree[n] = Item(n)
        if n % 2000 == 1999:
            commit()
    commit()


def commits() -> None:
    """Change an object that nobody else changes, and commit that."""
    counter = root["counters"][str(NUMBER)]
    for _ in range(COUNT):
        counter.n += 1
        commit()


def cold() -> None:
    """Read all items, one after the other, by their keys."""
    items = root["items"]
    assert sum(items[n].n for n in range(COUNT)) == COUNT * (COUNT - 1) // 2


def bulk() -> None:
    """Read all items, with what there is for reading many at once."""
    if KIND == "durus":
        assert sum(isinstance(each, Item) for each in connection.get_crawler(batch_size=1000)) >= COUNT
    else:
        connection.prefetch(list(root["items"].values()))
        cold()


def pack() -> None:
    """Remove what is not reached."""
    if KIND != "durus":
        database.pack()
    elif "://" in ADDRESS:
        step = time.perf_counter()
        for _ in connection.get_storage().get_packer():
            figures["longest"] = max(figures.get("longest", 0), time.perf_counter() - step)
            step = time.perf_counter()
    else:
        connection.get_storage().pack(wait=True)


if WORK == "fill" and "items" not in root:
    root["counters"] = Mapping({str(n): Item(0) for n in range(20)})
    fill()
elif WORK == "commits":
    root["counters"][str(NUMBER)].n  # noqa: B018  # it loads it
print("ready", flush=True)
sys.stdin.readline()
figures: dict[str, float] = {}
with peak_memory() as peak:
    began = time.perf_counter()
    globals()[WORK]()
    figures["seconds"] = time.perf_counter() - began
figures["memory"] = peak.added
print(json.dumps(figures), flush=True)
if KIND != "durus":
    connection.close()
    database.close()
else:
    connection.close()
