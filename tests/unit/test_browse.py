"""The pages of `durus browse`. spec/commands.md."""

import os
import random
import re
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("jinja2", reason="needs the extra durus[browse]")
pytest.importorskip("starlette", reason="needs the extra durus[browse]")
pytest.importorskip("uvicorn", reason="needs the extra durus[browse]")

from durus.browser.source import ServerRecords
from durus.browser.tree import tree_in
from durus.browser.view import View
from durus.btree import BTree
from durus.cli.browse import open_source
from durus.cli.main import main
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import DamageError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.file import OperatingSystem
from durus.files.shelf.layout import ENTRY_FRAME_SIZE
from durus.files.shelf.shelf import Shelf
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.sqlite_storage import SqliteStorage
from durus.storage import Storage
from durus.tools.exported import Exported, exported_of
from tests.browsing import HOST, TOKEN, Pages, browsing, store
from tests.hostile import HOSTILE, Ref, record, state_with_refs, write, write_hostile
from tests.threaded_server import serving


class Order(Persistent):
    def __init__(self, state: str) -> None:
        self.state = state


class Plain:
    def __init__(self) -> None:
        self.inner = [1, 2]


@pytest.fixture(params=[FileStorage, FileStorage2, SqliteStorage])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    storage_class: Callable[[Path], Storage] = request.param
    connection = Connection(storage_class(tmp_path / "shop.durus"))
    root: Any = connection.get_root()
    root["orders"] = PersistentList([Order("new"), Order("paid"), Order("paid")])
    root["by number"] = BTree(dict(enumerate(root["orders"])))
    root["settings"] = PersistentDict(tax=0.19, tags=PersistentSet(["x"]), plain=Plain(), pair=(None, True))
    connection.commit()
    connection.storage.close()
    return str(tmp_path / "shop.durus")


def oid_of(pages: Pages, class_name: str) -> int:
    """Return the oid of the first object of a class."""
    (link,) = re.findall(rf'href="/{TOKEN}/class/(\d+)">{re.escape(class_name)}<', pages.get("/classes").text)
    return int(re.findall(rf'href="/{TOKEN}/object/(\d+)">\d+</a>', pages.get(f"/class/{link}").text)[0])


# What is shown


@pytest.mark.spec("CMD-50")
def test_every_link_leads_to_a_page(shop: str) -> None:
    with browsing(shop) as pages:
        found = {path: answer.status for path, answer in pages.all()}
    assert set(found.values()) == {200}
    kinds = {re.sub(r"\d+", "N", path.partition("?")[0]) for path in found}
    assert {"/", "/classes", "/class/N", "/object/N", "/object/N/items", "/search"} <= kinds


@pytest.mark.spec("CMD-50")
def test_classes_have_counts_and_bytes(shop: str) -> None:
    with browsing(shop) as pages:
        assert re.search(r"tests\.unit\.test_browse\.Order 3 \d+", pages.text("/"))
        listed = pages.text("/classes?order=name")
        assert listed.index("durus.btree.BNode16 1") < listed.index("durus.btree.BTree 1") < listed.index("Order 3")
        assert "PersistentList" not in pages.text("/classes?name=btree")
        assert "There is no such class" in pages.text("/classes?name=nothing")
        assert pages.get("/classes?order=color").status == 400


@pytest.mark.spec("CMD-50")
def test_an_object_is_shown_with_its_neighbours(shop: str) -> None:
    with browsing(shop) as pages:
        root = pages.text("/object/0")
        assert "'orders': PersistentList" in root
        assert "'by number': BTree" in root
        assert ".data['settings']" in root
        order = oid_of(pages, "tests.unit.test_browse.Order")
        shown = pages.text(f"/object/{order}")
        assert "state 'new'" in shown
        assert re.search(r"Referred to by (BNode16|PersistentList) \d+ (BNode16|PersistentList) \d+", shown)
        settings = oid_of(pages, "durus.persistent_set.PersistentSet")
        assert "{'x'}" in pages.text(f"/object/{settings}")


@pytest.mark.spec("CMD-50")
def test_a_class_is_neither_needed_nor_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "gone_soon.py").write_text(
        "from durus.persistent import Persistent\nclass Order(Persistent):\n    def __init__(self): self.n = 17\n"
    )
    store(tmp_path / "f", order=__import__("gone_soon").Order())
    (tmp_path / "gone_soon.py").write_text("raise SystemExit('imported')\n")
    del sys.modules["gone_soon"]
    with browsing(tmp_path / "f") as pages:
        assert "n 17" in pages.text("/object/1")
        assert all(answer.status == 200 for _, answer in pages.all())
    assert "gone_soon" not in sys.modules


@pytest.mark.spec("CMD-50")
def test_a_damaged_class_of_values_is_written_like_a_call(shop: str) -> None:
    with browsing(shop) as pages:
        shown = "".join(pages.text(path) for path, _ in pages.all() if re.fullmatch(r"/object/\d+", path))
    assert "test_browse.Plain(inner=[1, 2])" in shown
    assert "(None, True)" in shown


@pytest.mark.spec("CMD-50", "CMD-2")
def test_what_is_not_there_is_told(shop: str) -> None:
    with browsing(shop) as pages:
        for path, status, text in [
            ("/object/77", 404, "no object has the oid 77"),
            ("/object/99999999999999999999999", 400, "an oid is a number from 0 to"),
            ("/object/0/value?at=9", 400, "no such attribute"),
            ("/object/0/value?at=0.9", 400, "no such part"),
            ("/object/0/value?at=-1", 400, "a place is numbers"),
            ("/object/0/items", 400, "oid 0 is not a BTree"),
            ("/object?oid=x", 400, "oid is a number, and"),
            ("/object", 400, "give the oid"),
            ("/class/99", 400, "there is no class with the number 99"),
            ("/class/0?start=-1", 400, "start is a number"),
            ("/nothing", 404, "there is no such page"),
            ("/object/x", 404, "there is no such page"),
        ]:
            answer = pages.get(path)
            assert (path, answer.status) == (path, status)
            assert text in answer.seen.text
        assert pages.get("/object?oid=1").headers["location"] == f"/{TOKEN}/object/1"
        assert "Referred to by" in pages.text("/object/77/referrers")


@pytest.mark.spec("CMD-50")
def test_nothing_is_written(shop: str) -> None:
    before = Path(shop).read_bytes()
    with browsing(shop) as pages:
        for _ in pages.all():
            pass
    assert Path(shop).read_bytes() == before
    assert {path.name for path in Path(shop).parent.iterdir()} <= {
        "shop.durus",
        "shop.durus-shm",  # of SQLite, for whoever reads
        "shop.durus-wal",
    }


@pytest.mark.spec("CMD-50")
def test_reading_again_shows_what_was_committed_since(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection, browsing(tmp_path / "f") as pages:
        connection.get_root()["order"] = Order("new")
        connection.commit()
        assert pages.get("/object/1").status == 404
        assert pages.get("/again").status == 303
        assert "'new'" in pages.text("/object/1")
        assert pages.reader.complete.wait(60)
        assert "PersistentDict 0" in pages.text("/object/1").partition("Referred to by")[2]


# Servers


@pytest.mark.spec("CMD-50")
def test_a_server_shows_what_the_root_reaches_now(short_path: Path) -> None:
    with (
        serving(FileStorage(short_path / "f"), short_path / "s"),
        Connection(ClientStorage(address=short_path / "s")) as connection,
    ):
        connection.get_root()["order"] = Order("new")
        connection.get_root()["list"] = PersistentList(PersistentList([n]) for n in range(250))
        connection.commit()
        with browsing(f"durus+unix:{short_path / 's'}") as pages:
            assert "Order 1" in pages.text("/classes").replace("tests.unit.test_browse.", "")
            assert "PersistentList 251" in pages.text("/classes")
            connection.get_root()["order"].state = "paid"
            connection.commit()
            assert "'paid'" in pages.text("/object/1")
            connection.get_root()["order"].state = "sent"
            connection.commit()
            assert "'sent'" in pages.text("/class/1") + pages.text("/class/2")
            answer = pages.get("/object/1/history")
            assert (answer.status, "keeps no history" in answer.text) == (400, True)
            for path, each in pages.all():
                assert each.status == 200, path


@pytest.mark.spec("CMD-50")
def test_the_scheme_of_a_server_may_have_capital_letters(short_path: Path) -> None:
    with serving(FileStorage(short_path / "f"), short_path / "s"):
        Connection(ClientStorage(address=short_path / "s")).storage.close()
        with browsing(f"Durus+UNIX:{short_path / 's'}") as pages:
            assert "PersistentDict" in pages.text("/classes")


@pytest.mark.spec("CMD-50")
def test_a_server_that_is_gone_is_told_and_found_again(short_path: Path) -> None:
    with serving(FileStorage(short_path / "f"), short_path / "s"):
        Connection(ClientStorage(address=short_path / "s")).storage.close()
        opened = browsing(f"durus+unix:{short_path / 's'}")
        pages = opened.__enter__()
        assert pages.get("/object/0").status == 200
    try:
        assert pages.get("/object/0").status == 503
        with serving(FileStorage(short_path / "f"), short_path / "s"):
            assert pages.get("/object/0").status == 200
    finally:
        opened.__exit__(None, None, None)


@pytest.mark.spec("CMD-50")
def test_what_changes_on_a_server_while_it_is_read_is_read_anew(short_path: Path) -> None:
    with (
        serving(FileStorage(short_path / "f"), short_path / "s"),
        Connection(ClientStorage(address=short_path / "s")) as connection,
        closing(ClientStorage(address=short_path / "s", prefetch=0)) as client,
    ):
        connection.get_root()["order"] = Order("new")
        connection.commit()
        client.sync()
        records = ServerRecords(client)
        assert [oid for oid, _ in records.offsets()] == [oid_from_int(0), oid_from_int(1)]
        connection.get_root()["order"].state = "paid"
        connection.commit()
        assert b"paid" in (records.read(oid_from_int(1)) or b"")
        connection.get_root()["order"].state = "sent"
        connection.commit()
        assert [oid for oid, _ in records.offsets()] == [oid_from_int(0), oid_from_int(1)]
        assert b"sent" in records.read_entry(oid_from_int(1), 0)
        assert records.read(oid_from_int(9)) is None


@pytest.mark.spec("CMD-50")
def test_a_walk_goes_on_when_the_server_was_started_again(short_path: Path) -> None:
    with serving(FileStorage(short_path / "f"), short_path / "s"):
        Connection(ClientStorage(address=short_path / "s")).storage.close()
        client = ClientStorage(address=short_path / "s")
    with closing(client), serving(FileStorage(short_path / "f"), short_path / "s"):
        assert [oid for oid, _ in ServerRecords(client).offsets()] == [oid_from_int(0)]


# Who may ask


@pytest.mark.spec("CMD-51")
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"path": "/"}, 200),
        ({"path": "/", "method": "HEAD"}, 200),
        ({"path": "/", "method": "POST"}, 405),
        ({"path": "/", "method": "DELETE"}, 405),
        ({"path": "/", "host": "evil.example"}, 403),
        ({"path": "/", "host": "127.0.0.1"}, 403),
        ({"path": "/", "host": ""}, 403),
        ({"path": "/", "base": ""}, 404),
        ({"path": "", "base": "/"}, 404),
        ({"path": "/", "base": "/other"}, 404),
        ({"path": "/", "base": f"/{TOKEN}x"}, 404),
        ({"path": "/", "base": f"/{TOKEN[:-1]}"}, 404),
        ({"path": "/", "base": f"//{TOKEN}"}, 404),
        ({"path": "/", "base": f"/{TOKEN.upper()}"}, 404),
        ({"path": "/", "base": "/%ff%00é"}, 404),
        ({"path": "/style.css", "base": ""}, 404),
        ({"path": "/nothing", "base": "/other"}, 404),
    ],
)
def test_only_who_knows_the_address_may_read(tmp_path: Path, request_: dict[str, str], status: int) -> None:
    store(tmp_path / "f", secret="secret")
    with browsing(tmp_path / "f") as pages:
        answer = pages.get(**request_)
    assert answer.status == status
    if status == 405:
        assert answer.text == "A database can only be looked at here.\n"
    if status != 200:
        assert "PersistentDict" not in answer.text
        assert TOKEN not in answer.text


@pytest.mark.spec("CMD-51")
def test_two_hosts_are_none(tmp_path: Path) -> None:
    import asyncio

    store(tmp_path / "f")
    with browsing(tmp_path / "f") as pages:
        for headers in ([], [(b"host", HOST.encode())] * 2):
            assert asyncio.run(pages._get(f"/{TOKEN}/", "GET", headers)).status == 403


@pytest.mark.spec("CMD-51")
def test_tokens_are_long_and_new() -> None:
    from durus.browser.guard import new_token

    assert len({new_token() for _ in range(100)}) == 100
    assert all(len(new_token()) >= 22 and re.fullmatch(r"[\w-]+", new_token()) for _ in range(100))


@pytest.mark.spec("CMD-52")
@pytest.mark.parametrize("path", ["/", "/style.css", "/nothing", "/object/9", "/again"])
def test_every_answer_forbids_what_pages_do_not_need(tmp_path: Path, path: str) -> None:
    store(tmp_path / "f")
    with browsing(tmp_path / "f") as pages:
        for answer in (pages.get(path), pages.get(path, base="/other"), pages.get(path, host="evil")):
            policy = answer.headers["content-security-policy"].split("; ")
            assert {"default-src 'none'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(
                policy
            )
            assert not any("unsafe" in each or "script" in each for each in policy)
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "access-control-allow-origin" not in answer.headers


# Hostile databases


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_hostile(tmp_path / "f<b>.durus")
    return tmp_path / "f<b>.durus"


@pytest.mark.spec("CMD-53", "CMD-54")
def test_no_page_of_a_hostile_database_has_markup_or_control_characters_of_it(hostile: Path) -> None:
    count = 0
    with browsing(hostile) as pages:
        for path, answer in pages.all():
            if path != "/object/4711":
                assert pages.page(path)
            assert len(answer.body) < 250_000, path
            count += 1
        assert "alert(1)" in pages.text("/object/1")
        for number in range(len(HOSTILE)):
            assert pages.page(f"/object/1/value?at={number}")
    assert count > 60
    assert not (hostile.parent / "was-run").exists()


@pytest.mark.spec("CMD-53")
def test_long_values_are_on_pages_of_their_own(hostile: Path) -> None:
    with browsing(hostile) as pages:
        name, rest = (
            r'<th scope="row"><span class="value">(\w+)</span></th>',
            r'<a class="more" href="/the-token([^"]*)"',
        )
        links = dict(re.findall(rf"{name}\s*<td>.*\s*{rest}", pages.get("/object/1").text))
        assert set(links) >= {"text", "bytes", "number", "wide", "mapping"}
        text = pages.text(links["text"])
        assert "9,999,999 characters" in text
        assert "1 to 20,000 of 9,999,999" in text
        assert "<b><b>" in text
        assert "980,001 to 1,000,000" in pages.text(links["text"] + "&start=980000")
        assert "00000000 00 01 02" in pages.text(links["bytes"])
        assert re.search(r"16,\d\d\d characters", pages.text(links["number"]))  # in hexadecimal digits
        last = pages.text(links["wide"] + "&start=19900")
        assert "19,901 to 20,000 of 20,000" in last
        assert "19999 19999" in last
        assert "'19999'" in pages.text(links["mapping"] + "&start=19900")
        assert "All 1,000 attributes" in pages.text("/object/10")
        assert "101 to 200 of 1,000" in pages.text("/object/10/value?start=100")


@pytest.mark.spec("CMD-54")
def test_an_object_that_cannot_be_read_is_shown_with_what_is_wrong(hostile: Path) -> None:
    with browsing(hostile) as pages:
        assert "Its state has no readable form: its data can't be read" in pages.text("/object/3")
        assert "continues after the state" in pages.text("/object/4")
        assert "nested more than 150 levels deep" in pages.text("/object/5")
        assert "(unreadable)" in pages.text("/object/9")
        assert "(missing) 4711" in pages.text("/object/4711/referrers")
        assert "m.NoPickle" in pages.text("/classes")
        assert "m.Dangling 7" not in pages.text("/object/4711/referrers")
        assert "Dangling 7" in pages.text("/object/4711/referrers")


@pytest.mark.spec("CMD-54")
def test_damage_hides_only_what_it_hits(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with Connection(path) as connection:
        root = connection.get_root()
        for name in "abc":
            root[name] = Order(random.Random(name).randbytes(100_000).hex())
        connection.commit()
        connection.pack()
    data = path.read_bytes()
    with closing(OperatingSystem().open(str(path), "read")) as file:
        at = Shelf(file).offset_of(oid_from_int(2))
    assert at is not None
    path.write_bytes(data[: at + 50_000] + b"X" + data[at + 50_001 :])
    with browsing(path, is_damaged=True) as pages:
        first = pages.text("/")
        assert "Objects that can't be read" in first
        assert "unreadable 1 of them" in first
        shown = [pages.get(f"/object/{number}") for number in (0, 1, 2, 3)]
        assert [each.status for each in shown] == [200, 200, 500, 200]
        assert f"`durus check {path}` lists all damage" in shown[2].seen.text


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    store(tmp_path / "f")
    data = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(data[:20] + b"\xff\xff" + data[22:])
    with pytest.raises(DamageError), browsing(tmp_path / "f"):
        pass


# BTrees


@pytest.mark.spec("CMD-53")
@pytest.mark.parametrize("count", [0, 1, 100, 101, 2000])
def test_the_items_of_a_btree_are_on_pages_in_their_order(tmp_path: Path, count: int) -> None:
    store(tmp_path / "f", tree=BTree({number: Order(str(number)) for number in range(count)}))
    with browsing(tmp_path / "f") as pages:
        forward: list[list[int]] = []
        path: str | None = "/object/1/items"
        while path is not None:
            answer = pages.page(path)
            forward.append([int(key) for key in re.findall(r'<th scope="row"><span class="value">(\d+)', answer.text)])
            last, path = (
                path,
                next((link[len(TOKEN) + 1 :] for link in re.findall(r'rel="next" href="([^"]*)', answer.text)), None),
            )
        assert [number for page in forward for number in page] == list(range(count))
        assert all(len(page) == 100 for page in forward[:-1])
        backward = [forward[-1]]
        while link := re.search(r'rel="prev" href="/the-token([^"]*)', pages.get(last).text):
            last = link[1]
            backward.append(
                [int(key) for key in re.findall(r'<th scope="row"><span class="value">(\d+)', pages.get(last).text)]
            )
        assert backward[::-1] == forward
        for key in (0, 17, 1999, 7000) if count == 2000 else ():
            shown = re.findall(
                r'<th scope="row"><span class="value">(\d+)', pages.get(f"/object/1/items?key={key}").text
            )
            assert list(map(int, shown)) == list(range(2000))[key : key + 100]


@pytest.mark.spec("CMD-53")
def test_a_key_is_looked_for_by_its_type(tmp_path: Path) -> None:
    store(tmp_path / "f", names=BTree({f"{n:03}": n for n in range(300)}), pairs=BTree({(n, n): n for n in range(9)}))
    with browsing(tmp_path / "f") as pages:
        trees = [number for number in range(60) if "Items of the BTree" in pages.get(f"/object/{number}").text]
        names, pairs = trees
        assert "'150'" in pages.text(f"/object/{names}/items?key=149x").partition("Value")[2][:20]
        assert "There are no items from there on" in pages.text(f"/object/{names}/items?key=z")
        assert "only keys that are texts or numbers" in pages.text(f"/object/{pairs}/items?key=1")


BNODE = "durus.btree.BNode16"
TREE = "durus.btree.BTree"


def node(oid: int, items: list[Any], nodes: list[int] | None, cls: str = BNODE) -> tuple[bytes, bytes]:
    refs = None if nodes is None else [Ref(number, Order) for number in nodes]
    return record(oid, cls, state_with_refs({"items": items, "nodes": refs}), *sorted({*(nodes or ()), 0} - {oid}))


@pytest.mark.spec("CMD-53", "CMD-54")
@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ([node(2, [], [2])], "deeper than 40 levels"),
        ([node(2, [(1, 1)], [2, 2])], "deeper than 40 levels"),
        ([node(2, [(1, 1)], [3, 3]), node(3, [(1, 1)], [2, 2])], "deeper than 40 levels"),
        ([node(2, [(1, 1)], [1, 1])], "oid 1 is not a node of a BTree"),
        ([node(2, [(1, 1)], [77, 0])], "oid 77 is not a node of a BTree"),
        (
            [
                node(2, [(n, n) for n in range(200)], [3] * 201),
                *(node(n, [], [n + 1]) for n in range(3, 37)),
                node(37, [], None),
            ],
            "2000 nodes without items",
        ),
    ],
)
def test_a_btree_that_is_none_is_told(tmp_path: Path, nodes: list[tuple[bytes, bytes]], problem: str) -> None:
    tree = record(1, TREE, state_with_refs({"root": Ref(2, Order)}), 2)
    root = record(0, "durus.persistent_dict.PersistentDict", state_with_refs({"data": {"tree": Ref(1, Order)}}), 1)
    write(tmp_path / "f", root, tree, *nodes)
    with browsing(tmp_path / "f") as pages:
        assert problem in pages.text("/object/1/items")
        for path in ("/object/1/items?key=1", "/object/1/items?from=4.4.5", "/object/1"):
            assert pages.get(path).status == 200


def test_a_place_that_is_none_gives_each_item_once(tmp_path: Path) -> None:
    store(tmp_path / "f", tree=BTree({number: number for number in range(100)}))
    with closing(open_source(str(tmp_path / "f"))) as source:
        view = View(source)
        found = view.read(oid_from_int(1))
        assert found is not None
        assert found.state is not None
        tree = tree_in(found.state.state, view.read)
        assert tree is not None
        for wrong, right in (((1, 4), (1,)), ((3, 0, 0), (3,)), ((4, 4, 4), (4, 4)), ((999,), (999,))):
            assert tree.items_before(wrong, 99) == tree.items_before(right, 99)
        assert [item.key for item in tree.items_before((), 100)] == list(range(100))


# Search


@pytest.mark.spec("CMD-55")
def test_objects_are_found_by_attribute_and_value(shop: str) -> None:
    with browsing(shop) as pages:
        assert "0 found" not in pages.text("/search?attribute=state&text=PAI")
        assert "2 found on this page; looked at" in pages.text("/search?attribute=state&text=PAI")
        assert "3 found on this page" in pages.text("/search?attribute=state")
        assert "2 found on this page" in pages.text("/search?text=paid")
        assert "0 found on this page" in pages.text("/search?attribute=other&text=paid")
        assert "Give an attribute" in pages.text("/search")
        number = re.findall(rf'href="/{TOKEN}/class/(\d+)">durus.persistent_dict.Pers', pages.get("/classes").text)[0]
        assert "looked at 2 of 2 objects" in pages.text(f"/search?class={number}&text=tax")
        assert pages.get("/search?class=99&text=x").status == 400


@pytest.mark.spec("CMD-55")
def test_a_long_search_goes_on_on_further_pages(tmp_path: Path) -> None:
    store(tmp_path / "f", all=[Order("x" if n % 2 else "y") for n in range(301)])
    with browsing(tmp_path / "f") as pages:
        found: list[str] = []
        path = "/search?class=&attribute=state&text=x"
        while path:
            page = pages.page(path).text
            found += re.findall(r">Order (\d+)</a></th>", page)
            links = re.findall(rf'rel="next" href="/{TOKEN}([^"]*)"', page)
            path = links[0].replace("&amp;", "&") if links else ""
        assert len(found) == len(set(found)) == 150


# History


@pytest.mark.spec("CMD-56")
def test_the_states_of_an_object_are_shown_with_what_changed(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        order = connection.get_root()["order"] = Order("new")
        connection.commit()
        for number in range(30):
            order.state = f"state {number}"
            if number == 29:
                order.note = "last"  # type: ignore[attr-defined]  # an attribute that not all have
            connection.commit()
            connection.get_root()["n"] = number
            connection.commit()
    with browsing(tmp_path / "f") as pages:
        newest = pages.text("/object/1/history")
        assert "note, state" in newest
        links = re.findall(r'href="/the-token(/object/1\?commit=\d+)"', pages.get("/object/1/history").text)
        assert len(links) == 20
        assert "state 'state 29'" in pages.text(links[0])
        assert "state 'state 28'" in pages.text(links[1])
        older = re.findall(r'rel="next" href="/the-token([^"]*)', pages.get("/object/1/history").text)[0]
        rest = re.findall(r'href="/the-token(/object/1\?commit=\d+)"', pages.get(older).text)
        assert len({*links, *rest}) == 31
        assert "the first state that is still here" in pages.text(older)
        assert "state 'new'" in pages.text(rest[-1])
        assert "This is the state that commit" in pages.text(rest[-1])
        assert pages.get("/object/1?commit=99").status == 400
        before = int(links[0].rpartition("=")[2]) - 1
        assert f"oid 1 has no state that commit {before} has stored" in pages.get(f"/object/1?commit={before}").text
        assert pages.get("/object/77?commit=1").status == 400
        assert "There are no states" in pages.text("/object/77/history")
        assert "Growth" in pages.text("/")


@pytest.mark.spec("CMD-56")
def test_each_state_of_a_history_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from durus.browser import pages as module

    read: list[bytes] = []

    def spy(oid: bytes, data: bytes, refs: bytes) -> Exported:
        read.append(data)
        return exported_of(oid, data, refs)

    with Connection(tmp_path / "f") as connection:
        order = connection.get_root()["order"] = Order("new")
        for number in range(9):
            order.state = f"state {number}"
            connection.commit()
    monkeypatch.setattr(module, "exported_of", spy)
    with browsing(tmp_path / "f") as pages:
        assert pages.text("/object/1/history").count("state") >= 9
    assert len(read) == len(set(read)) == 9


# Without what it needs, and wrong calls


@pytest.mark.spec("CMD-57")
@pytest.mark.parametrize("module", ["jinja2", "starlette.applications", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.startswith("durus.browser.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["browse", str(tmp_path / "f")]) == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"durus: browse needs [\w.]+, which is not installed: pip install 'durus\[browse\]'\n", told)


@pytest.mark.spec("CMD-6", "CMD-7")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["browse", "f", "--port", "70000"], 2, "from 0 to 65535"),
        (["browse", ""], 2, "the name is empty"),
        (["browse", "memory:"], 2, "is an address"),
        (["browse", "nothing"], 1, "No such file"),
        (["browse", "durus+unix:/nowhere/s"], 1, "/nowhere/s"),
        (["info", "f", "--plot", "f.png"], 2, "must end in .svg"),
    ],
)
def test_wrong_calls(
    arguments: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Plots


@pytest.mark.spec("CMD-58")
def test_plots_are_written_into_a_new_file(shop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.svg"
    os.chmod(shop, 0o640)
    assert main(["info", shop, "--plot", str(path)]) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    ElementTree.parse(path)
    text = path.read_text()
    assert "Order" in text
    assert ("size of the file" in text) == (Path(shop).read_bytes()[:5] == b"SHELF")
    assert main(["info", shop, "--plot", str(path)]) == 1
    assert "already exists" in capsys.readouterr().err
    assert path.read_text() == text
    assert [each.name for each in tmp_path.iterdir() if "new" in each.name] == ["new.svg"]


@pytest.mark.spec("CMD-58")
def test_plots_of_a_hostile_database_are_xml(hostile: Path) -> None:
    assert main(["info", str(hostile), "--plot", "new.svg"]) == 0
    elements = {each.tag.partition("}")[2] for each in ElementTree.parse("new.svg").iter()}
    assert elements <= {"svg", "style", "rect", "text", "path"}


def test_the_plot_over_time_ends_where_info_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from durus.browser.timeline import Timeline

    path = tmp_path / "f"
    with Connection(path) as connection:
        connection.get_root()["order"] = Order("new")
        connection.commit()
        connection.pack()
        for number in range(5000):
            connection.get_root()["order"].state = str(number)
            if number % 50 == 0:
                connection.commit()
        connection.commit()
    storage = FileStorage(path, readonly=True)
    timeline = Timeline(storage)
    for _ in timeline.steps():
        pass
    stored = sum(1 for commit in storage.commits() for _ in storage.records_in(commit))
    storage.close()
    assert main(["info", "--json", str(path)]) == 0
    info = json.loads(capsys.readouterr().out)
    last = timeline.points[-1]
    assert last.size == info["size"]
    assert info["superseded_size"] == last.replaced + (stored - info["objects"]) * ENTRY_FRAME_SIZE
    assert [point.size for point in timeline.points] == sorted(point.size for point in timeline.points)


def test_very_many_commits_are_thinned_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from durus.browser import charts, timeline

    monkeypatch.setattr(timeline, "_MAX_POINTS", 10)
    with Connection(tmp_path / "f") as connection:
        for number in range(101):
            connection.get_root()["n"] = number
            connection.commit()
    storage = FileStorage(tmp_path / "f", readonly=True)
    commits = list(storage.commits())
    work = timeline.Timeline(storage)
    for _ in work.steps():
        pass
    storage.close()
    assert len(work.points) <= 11
    assert (work.points[0].number, work.points[-1].number) == (commits[0].number, commits[-1].number)
    ElementTree.fromstring(charts.over_time(work.points).svg())
    ElementTree.fromstring(charts.over_time([point._replace(time=None) for point in work.points]).svg())


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_600, "1 MB"),
        (12_345_678, "12.3 MB"),
        (10**15, "1e+03 TB"),
    ],
)
def test_sizes_are_short(size: int, text: str) -> None:
    from durus.browser.charts import size_text

    assert size_text(size) == text
