"""examples/from_zodb.py brings a FileStorage of the real ZODB here."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent.parent.parent / "examples" / "from_zodb.py"

MODELS = {
    "shop.py": """
import persistent

class Order(persistent.Persistent):
    pass

class Note:
    pass
""",
    "store.py": """
from durus.persistent import Persistent

class Order(Persistent):
    pass
""",
}

FILL = """
import datetime, transaction, ZODB, ZODB.FileStorage, shop
from BTrees.OOBTree import OOBTree, OOTreeSet, OOSet
from BTrees.IOBTree import IOBTree
from BTrees.LOBTree import LOBTree
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping

database = ZODB.DB(ZODB.FileStorage.FileStorage("Data.fs"))
root = database.open().root()
root["mapping"] = PersistentMapping({"größe": 1, ("a", 2): b"\\xff"})
root["list"] = PersistentList([1, "zwei", None, root["mapping"]])
root["names"] = OOBTree({f"name {n:05}": n for n in range(1000)})
root["numbers"] = IOBTree({n: [n] for n in range(100)})
root["long"] = LOBTree({2**40: root["list"]})
root["tree set"] = OOTreeSet(range(200))
root["set"] = OOSet("abc")
order = root["order"] = shop.Order()
order.itself = order
order.when = datetime.datetime(2004, 1, 2)
order.note = shop.Note()
order.note.about = [order, root["names"]]
order.again = order.note
root["numbers"][7] = order
transaction.commit()
root["mapping"]["later"] = {"nested": (root["set"],)}
transaction.commit()
database.close()
"""

LOOK = """
import datetime, shop, store
from durus.btree import BTree
from durus.connection import Connection
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet

root = Connection("new.durus").get_root()
assert sorted(root) == ["list", "long", "mapping", "names", "numbers", "order", "set", "tree set"]
mapping = root["mapping"]
assert type(mapping) is PersistentDict
assert dict(mapping) == {"größe": 1, ("a", 2): b"\\xff", "later": {"nested": (root["set"],)}}
assert type(root["list"]) is PersistentList and list(root["list"]) == [1, "zwei", None, mapping]
assert type(root["names"]) is BTree
assert root["names"].items() == [(f"name {n:05}", n) for n in range(1000)]
order = root["order"]
assert type(order) is store.Order
assert root["numbers"].items() == [(n, order if n == 7 else [n]) for n in range(100)]
assert root["long"].items() == [(2**40, root["list"])]
assert root["tree set"].items() == [(n, True) for n in range(200)]
assert type(root["set"]) is PersistentSet and root["set"].s == set("abc")
assert set(vars(order)) == {"itself", "when", "note", "again"}
assert order.itself is order and order.when == datetime.datetime(2004, 1, 2)
assert type(order.note) is shop.Note and order.again is order.note
assert order.note.about[0] is order and order.note.about[1] is root["names"]
print("the same")
"""


def run(folder: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_file_storage_of_zodb_is_copied_to_a_durus_file(tmp_path: Path) -> None:
    for name, text in MODELS.items():
        (tmp_path / name).write_text(text)
    filled = run(tmp_path, "-c", FILL)
    assert filled.returncode == 0, filled.stderr
    before = (tmp_path / "Data.fs").read_bytes()

    nameless = run(tmp_path, EXAMPLE, "Data.fs", "new.durus")
    assert "--class shop.Order=..." in nameless.stderr
    assert not (tmp_path / "new.durus").exists()

    copied = run(tmp_path, EXAMPLE, "Data.fs", "new.durus", "--class", "shop.Order=store.Order")
    assert copied.returncode == 0, copied.stderr
    assert copied.stdout == "9 objects copied from Data.fs to new.durus\n"
    assert (tmp_path / "Data.fs").read_bytes() == before
    looked = run(tmp_path, "-c", LOOK)
    assert looked.stdout == "the same\n", looked.stderr

    assert "the file already exists" in run(tmp_path, EXAMPLE, "Data.fs", "new.durus").stderr
