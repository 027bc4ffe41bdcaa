"""One client of a database that many share, for bench/engines.py. It runs in the venv of what it measures.

    python engine_client.py KIND ADDRESS WORK NUMBER COUNT

prints how many seconds COUNT of the work took, after a line of the standard input has told to begin.
"""

import sys
import time
from typing import Any

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
    """Make 20 counters, and COUNT items in a tree; as many are not reached any more."""
    root["counters"] = Mapping({str(n): Item(0) for n in range(20)})
    for name in "garbage", "items":
        root[name] = tree = BTree()
        for n in range(COUNT):
            tree[n] = Item(n)
            if n % 2000 == 1999:
                commit()
        commit()
    del root["garbage"]
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
        connection.pack()
    else:
        connection.get_storage().pack(wait=True)


if WORK == "commits":
    root["counters"][str(NUMBER)].n  # noqa: B018  # it loads it
print("ready", flush=True)
sys.stdin.readline()
began = time.perf_counter()
globals()[WORK]()
print(time.perf_counter() - began, flush=True)
if KIND != "durus":
    connection.close()
    database.close()
else:
    connection.close()
