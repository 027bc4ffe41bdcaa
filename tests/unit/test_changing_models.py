"""Objects that were stored by an earlier version of a program: upgrades, renames, copies."""

import errno
import re
import stat
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection, gen_every_instance, touch_every_reference
from durus.error import AlreadyExistsError, ArgumentError, DurusError, DurusKeyError, FileError, RecordError
from durus.file_storage import FileStorage
from durus.files.file import OperatingSystem
from durus.files.shelf.inspection import ShelfInspection
from durus.objects.broken import BrokenObject
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.records.record import pack_record, split_oids, unpack_record
from durus.serialize import class_pickle
from durus.storage import MemoryStorage, Storage, get_census
from durus.tools.convert import copy_to_file
from durus.tools.rename import Renaming
from tests.spec import SPEC

OLD, NEW = "shop_of_old", "shop.now"


class Item(Persistent):
    """What classes of the modules below inherit."""


@pytest.fixture
def modules() -> Iterator[tuple[Any, Any]]:
    """Two modules with classes Order and Item, of which Order has a nested class Line."""
    made = []
    sys.modules["shop"] = types.ModuleType("shop")
    for name in (OLD, NEW):
        module = types.ModuleType(name)
        for path in ("Order", "Item", "Order.Line"):
            cls = type(path.rpartition(".")[2], (Item,), {"__module__": name, "__qualname__": path})
            owner: Any = module
            for step in path.split(".")[:-1]:
                owner = getattr(owner, step)
            setattr(owner, cls.__name__, cls)
        sys.modules[name] = module
        made.append(module)
    yield made[0], made[1]
    for name in ("shop", OLD, NEW):
        sys.modules.pop(name, None)


@pytest.fixture
def file(tmp_path: Path, modules: tuple[Any, Any]) -> Path:
    """A file with an Order, its Line and its Item, of the old module, and an item without any name of it."""
    old, _ = modules
    with Connection(tmp_path / "f") as connection:
        root: Any = connection.get_root()
        root["order"] = old.Order()
        root["order"].line = old.Order.Line()
        root["order"].item = old.Item()
        root["order"].text = OLD
        root["other"] = Item()
        connection.commit()
    return tmp_path / "f"


def rename(path: Path, old: str, new: str) -> Renaming:
    storage = FileStorage(path)
    try:
        renaming = Renaming(storage, old, new)
        for _ in renaming.find():
            pass
        renaming.store()
    finally:
        storage.close()
    return renaming


def classes_in(path: Path) -> dict[str, str]:
    """Return the path of the class of each object, as the root and the order refer to them."""
    with Connection(FileStorage(path, readonly=True)) as connection:
        order: Any = connection.get_root()["order"]
        found = {"order": order, "line": order.line, "item": order.item}
        return {name: f"{type(obj).__module__}.{type(obj).__qualname__}" for name, obj in found.items()}


@pytest.mark.spec("OBJ-40")
def test_objects_are_upgraded_as_they_are_loaded(tmp_path: Path, modules: tuple[Any, Any]) -> None:
    old, _ = modules
    with Connection(tmp_path / "f") as connection:
        connection.get_root()["order"] = order = old.Order()
        order.name = "Ann Lee"
        connection.commit()

    class Order(Item):
        def __setstate__(self, state: dict[str, Any]) -> None:
            if "name" in state:  # as it was stored before
                first, _, last = state.pop("name").partition(" ")
                state.update(first=first, last=last)
            super().__setstate__(state)

    Order.__module__, Order.__qualname__ = OLD, "Order"
    old.Order = Order
    with Connection(tmp_path / "f") as connection:
        upgraded: Any = connection.get_root()["order"]
        assert (upgraded.first, upgraded.last) == ("Ann", "Lee")
        assert not connection.changed
        before = connection.get_stored_pickle(upgraded._p_oid)
        connection.commit()
        assert connection.get_stored_pickle(upgraded._p_oid) == before
        upgraded.first = "Anna"
        connection.commit()
        assert b"last" in connection.get_stored_pickle(upgraded._p_oid)
    with Connection(tmp_path / "f") as connection:
        upgraded = connection.get_root()["order"]
        assert (upgraded.first, upgraded.last) == ("Anna", "Lee")


@pytest.mark.spec("OBJ-41")
def test_a_class_is_renamed_by_the_script_of_the_faq(file: Path, modules: tuple[Any, Any]) -> None:
    old, new = modules
    old.Order = new.Order
    with Connection(str(file)) as connection:
        for obj in gen_every_instance(connection, old.Order):
            obj._p_note_change()
        touch_every_reference(connection, "Order")
        connection.commit()
    del sys.modules[OLD]
    assert classes_in(file) == {"order": f"{NEW}.Order", "line": f"{NEW}.Order.Line", "item": f"{OLD}.Item"}


@pytest.mark.spec("OBJ-42", "REC-20")
def test_a_class_gets_another_path(file: Path) -> None:
    renaming = rename(file, f"{OLD}.Order", f"{NEW}.Order")
    assert renaming.objects == {
        (f"{OLD}.Order", f"{NEW}.Order"): 1,
        (f"{OLD}.Order.Line", f"{NEW}.Order.Line"): 1,
    }
    assert renaming.others == 1  # the root
    assert classes_in(file) == {"order": f"{NEW}.Order", "line": f"{NEW}.Order.Line", "item": f"{OLD}.Item"}
    with Connection(FileStorage(file, readonly=True)) as connection:
        assert connection.get_root()["order"].text == OLD


@pytest.mark.spec("OBJ-42")
def test_a_module_gets_another_path(file: Path) -> None:
    rename(file, OLD, NEW)
    assert classes_in(file) == {"order": f"{NEW}.Order", "line": f"{NEW}.Order.Line", "item": f"{NEW}.Item"}
    del sys.modules[OLD]
    rename(file, "shop", OLD)
    assert classes_in(file)["item"] == f"{OLD}.now.Item"


@pytest.mark.spec("OBJ-42")
def test_a_class_becomes_a_nested_one_and_the_other_way_round(file: Path) -> None:
    rename(file, f"{OLD}.Order.Line", f"{NEW}.Item")
    assert classes_in(file)["line"] == f"{NEW}.Item"
    rename(file, f"{NEW}.Item", f"{NEW}:Order.Line")
    assert classes_in(file) == {"order": f"{OLD}.Order", "line": f"{NEW}.Order.Line", "item": f"{OLD}.Item"}


ROW = re.compile(r"^\| `(\S+)` \| `(\S+)` \| `(\S+) (\S+)` \| `(\S+) (\S+)` \|$", re.MULTILINE)
ROWS = ROW.findall((SPEC / "object-model.md").read_text(encoding="utf-8"))


@pytest.mark.spec("OBJ-42")
@pytest.mark.parametrize("row", ROWS)
def test_a_name_becomes_what_the_table_says(row: tuple[str, str, str, str, str, str]) -> None:
    old, new, module, name, new_module, new_name = row
    storage = MemoryStorage()
    oid = storage.new_oid()
    storage.begin()
    data = f"c{module}\n{name}\n.".encode()
    storage.store(oid, pack_record(oid, b"\x80\x04" + data + b"\x80\x04}.", b""))
    storage.end()
    renaming = Renaming(storage, old, new)
    list(renaming.find())
    renaming.store()
    assert storage.load(oid)[12:].startswith(f"\x80\x04c{new_module}\n{new_name}\n.".encode("latin-1"))


def test_the_table_is_read() -> None:
    assert len(ROWS) == 8


@pytest.mark.spec("OBJ-43")
def test_all_that_a_rename_changes_is_one_transaction(file: Path) -> None:
    before = transactions_in(file)
    rename(file, OLD, NEW)
    assert transactions_in(file) == before + 1


def transactions_in(path: Path) -> int:
    check = ShelfInspection(OperatingSystem().open(str(path), "read"))
    assert list(check.findings()) == []
    return check.transactions


@pytest.mark.spec("OBJ-42")
def test_a_path_that_only_begins_alike_stays(file: Path) -> None:
    before = file.read_bytes()
    renaming = rename(file, f"{OLD}.Ord", f"{NEW}.Ord")
    assert (renaming.objects, renaming.others) == ({}, 0)
    rename(file, OLD[:-1], NEW)
    assert file.read_bytes() == before


@pytest.mark.spec("OBJ-42")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f"{OLD}.Order", "Offer", "give the module of Offer, too"),
        (OLD, "shop.of:Offer", "give the path of a module"),
        (OLD, "no path", "must be paths"),
        (f"{OLD}..Order", NEW, "must be paths"),
        (f"{OLD}.Order", f"{NEW}:Order:Line", "must be paths"),
    ],
)
def test_paths_that_do_not_fit_are_refused(file: Path, old: str, new: str, message: str) -> None:
    before = file.read_bytes()
    with pytest.raises(ArgumentError, match=message):
        rename(file, old, new)
    assert file.read_bytes() == before


@pytest.mark.spec("OBJ-43")
def test_a_record_that_cannot_be_read_keeps_all_from_being_renamed(file: Path) -> None:
    storage = FileStorage(file)
    storage.begin()
    oid = storage.new_oid()
    storage.store(oid, pack_record(oid, class_pickle(Item) + b"no pickle", b""))
    storage.end()
    storage.close()
    before = file.read_bytes()
    with pytest.raises(RecordError, match=r"oid 5: .*nothing is changed"):
        rename(file, f"{OLD}.Order", f"{NEW}.Order")
    assert file.read_bytes() == before


def copy(source: Storage, path: Path, **options: Any) -> None:
    for _ in copy_to_file(source, path, **options):
        pass


@pytest.mark.spec("OBJ-44", "REC-21")
def test_a_copy_has_dense_oids_in_the_order_of_reach(file: Path, tmp_path: Path) -> None:
    with Connection(file) as connection:
        root: Any = connection.get_root()
        garbage = [root["other"], Item(), Item()]
        root["some"] = garbage
        connection.commit()
        del root["some"], root["other"]
        root["order"].line.back = root["order"]
        root["order"].itself = root["order"]
        root["order"].oid = root["order"]._p_oid
        root["last"] = Item()
        connection.commit()
    before = file.read_bytes()
    storage = FileStorage(file, readonly=True)
    copy(storage, tmp_path / "new")
    storage.close()
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "new"]
    with Connection(tmp_path / "new") as connection:
        root = connection.get_root()
        order = root["order"]
        found = [root, order, root["last"], order.line, order.item]
        assert [obj._p_format_oid() for obj in found] == ["0", "1", "2", "3", "4"]
        assert order.itself is order is order.line.back
        assert order.oid == oid_from_int(1)  # the same as before, because it is not a reference
        assert sum(get_census(connection.storage).values()) == 5
        assert {oid for _, r in connection.storage.gen_oid_record() for oid in split_oids(unpack_record(r)[2])} == {
            oid_from_int(number) for number in (1, 2, 3, 4)
        }
        assert str(connection.storage.new_oid()) == str(oid_from_int(5))


@pytest.mark.spec("OBJ-44")
def test_a_copy_goes_to_any_kind_of_storage(file: Path, tmp_path: Path) -> None:
    kept = MemoryStorage()

    def make(path: str) -> Storage:
        Path(path).touch()
        return kept

    storage = FileStorage(file, readonly=True)
    copy(storage, tmp_path / "new", make_storage=make)
    storage.close()
    assert (tmp_path / "new").exists()
    order: Any = Connection(kept).get_root()["order"]
    assert order.text == OLD


@pytest.mark.spec("OBJ-44")
def test_an_empty_storage_has_an_empty_copy(tmp_path: Path) -> None:
    copy(MemoryStorage(), tmp_path / "new")
    with Connection(tmp_path / "new") as connection:
        assert not connection.get_root()


@pytest.mark.spec("OBJ-44")
def test_a_file_that_is_there_is_never_replaced_by_a_copy(file: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("precious")
    with pytest.raises(AlreadyExistsError, match="the file already exists") as caught:
        copy(MemoryStorage(), tmp_path / "new")
    assert isinstance(caught.value, FileExistsError)
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, str(tmp_path / "new"))
    steps = copy_to_file(FileStorage(file, readonly=True), tmp_path / "late")
    next(steps)
    (tmp_path / "late").write_text("precious")
    with pytest.raises(FileError, match="exists"):
        list(steps)
    assert {path.read_text() for path in (tmp_path / "new", tmp_path / "late")} == {"precious"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "late", "new"]


@pytest.mark.spec("OBJ-44")
def test_two_copies_to_one_name_leave_a_whole_file(file: Path, tmp_path: Path) -> None:
    first, second = (copy_to_file(FileStorage(file, readonly=True), tmp_path / "new") for _ in range(2))
    next(first)
    (tmp_path / "new.part").write_text("precious")
    list(second)
    with pytest.raises(FileError, match="exists"):
        list(first)
    assert classes_in(tmp_path / "new") == classes_in(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "new", "new.part"]


@pytest.mark.parametrize("make_storage", [None, FileStorage])
def test_a_copy_has_the_permissions_of_the_file(file: Path, tmp_path: Path, make_storage: type[Storage] | None) -> None:
    file.chmod(0o600)
    copy(FileStorage(file, readonly=True), tmp_path / "new", make_storage=make_storage, permissions_of=file)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_a_copy_into_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot make a temporary file beside it"):
        copy(MemoryStorage(), tmp_path / "no" / "new")


@pytest.mark.spec("OBJ-44")
def test_a_file_system_without_links_takes_a_copy_too(file: Path, tmp_path: Path) -> None:
    class Linkless(OperatingSystem):
        def link(self, source: str, name: str) -> bool:
            return False

    copy(FileStorage(file, readonly=True), tmp_path / "new", file_system=Linkless())
    assert classes_in(tmp_path / "new") == classes_in(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "new"]


@pytest.mark.spec("OBJ-45")
@pytest.mark.parametrize(("refs", "message"), [(7, "leads to oid 7"), (None, "oid 0: its refs lack the oid 7")])
def test_a_reference_to_nothing_makes_a_copy_fail(tmp_path: Path, refs: int | None, message: str) -> None:
    class Unchecked(MemoryStorage):
        def load(self, oid: bytes) -> bytes:
            if oid != root:
                raise DurusKeyError(oid)
            reference = b"\x80\x04C\x08" + oid_from_int(7) + b"cdurus.persistent\nPersistent\n\x86Q."
            return pack_record(oid, class_pickle(Item) + reference, b"" if refs is None else oid_from_int(refs))

        def has_record(self, oid: bytes) -> bool:
            return oid == root

    root = oid_from_int(0)
    with pytest.raises(DurusError, match=message):
        copy(Unchecked(), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_objects_of_missing_classes_are_copied_and_renamed_like_others(
    file: Path, tmp_path: Path, modules: tuple[Any, Any]
) -> None:
    del sys.modules[OLD]
    copy(FileStorage(file, readonly=True), tmp_path / "new")
    with Connection(tmp_path / "new") as connection:
        assert isinstance(connection.get_root()["order"], BrokenObject)
    rename(tmp_path / "new", OLD, NEW)
    with Connection(tmp_path / "new") as connection:
        assert type(connection.get_root()["order"]) is modules[1].Order
