"""Histories of a database on a simulated disk, and the states that it had: a plain dict for each commit.

The oracle knows objects by name: the text that each holds, and the other objects to which it refers, in order. It
shares no code with the program: the committed state is what the steps have requested, and garbage is what its own walk
from the root does not reach.
"""

import pickle
import random
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal, NamedTuple
from unittest import mock

from durus import progress
from durus.connection import Connection
from durus.error import DurusError, DurusWarning, TransactionError
from durus.file_storage import Durability, FileStorage
from durus.files import writer as new_file
from durus.persistent import Persistent
from durus.shared_storage import SharedStorage
from durus.sharing.session import SessionCore
from durus.storage import Storage
from tests.model.simulated_files import Disk, SimulatedFileSystem

PATH = "/simulated/f.durus"

ROOT = "root"


class Item(NamedTuple):
    """What the oracle knows about an object."""

    text: bytes
    links: tuple[str, ...]


State = dict[str, Item]
"""The items that can be reached from the root, by name."""

EMPTY: State = {ROOT: Item(b"", ())}


def reached(items: State) -> State:
    """Return the items that can be reached from the root."""
    found: State = {}
    pending = [ROOT]
    while pending:
        name = pending.pop()
        if name not in found:
            found[name] = items[name]
            pending.extend(items[name].links)
    return found


class Node(Persistent):
    """An object of the application."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = b""
        self.links: list[Node] = []


Objects = dict[str, Any]


def read(connection: Connection) -> tuple[State, Objects]:
    """Return the state that a connection shows, and the objects."""
    root = connection.get_root()
    if not root.keys():
        return EMPTY, {ROOT: root}
    root_links: Any = root["links"]
    root_text: Any = root["text"]
    state = {ROOT: Item(root_text, tuple(node.name for node in root_links))}
    objects: Objects = {ROOT: root}
    pending = list(root_links)
    while pending:
        node = pending.pop()
        if node.name in objects:
            assert objects[node.name] is node, f"two objects are {node.name}"
            continue
        objects[node.name] = node
        state[node.name] = Item(node.text, tuple(link.name for link in node.links))
        pending.extend(node.links)
    return state, objects


def read_storage(storage: Storage) -> State:
    """Return the state that a new connection to a storage shows; a storage without a root shows none."""
    return read(Connection(SharedStorage(storage).new_client()))[0] if storage.has_record(bytes(8)) else EMPTY


def write(objects: Objects, name: str, item: Item) -> None:
    """Give an object the contents that the oracle has."""
    links = [objects[link] for link in item.links]
    if name == ROOT:
        objects[ROOT]["text"], objects[ROOT]["links"] = item.text, links
    else:
        objects[name].text, objects[name].links = item.text, links


# Files as Durus 4.3 writes them


class _Reference:
    """An object referred to in a state."""

    def __init__(self, oid: int) -> None:
        self.oid = oid


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return (struct.pack(">Q", obj.oid), Node) if isinstance(obj, _Reference) else None


def record_of(oids: dict[str, int], name: str, item: Item) -> bytes:
    """Return the record of an item as Durus 4.3 writes it, except for the compression."""
    links = [_Reference(oids[link]) for link in item.links]
    content: dict[str, object] = {"text": item.text, "links": links}
    if name == ROOT:
        cls, content = b"durus.persistent_dict\nPersistentDict", {"data": content}
    else:
        cls, content = f"{Node.__module__}\n{Node.__qualname__}".encode(), {"name": name, **content}
    data = BytesIO()
    _Pickler(data, 2).dump(content)
    packed = b"\x80\x02c" + cls + b"\n." + data.getvalue()
    refs = sorted({oids[link] for link in item.links} - {oids[name]})
    return struct.pack(">QI", oids[name], len(packed)) + packed + b"".join(struct.pack(">Q", ref) for ref in refs)


def unsealed_transaction(oids: dict[str, int], items: State) -> bytes:
    """Return a transaction with these items, without a seal. [SHELF-4] [SHELF-5]"""
    entries = b""
    for name, item in items.items():
        record = record_of(oids, name, item)
        entries += struct.pack(">QQ", 8 + len(record), oids[name]) + record
    return struct.pack(">Q", len(entries)) + entries


UNSEALED_EMPTY_FILE = b"SHELF-1\n" + struct.pack(">QQQQ", 0, 16, 1, 0)


def unsealed_packed_file(oids: dict[str, int], items: State) -> bytes:
    """Return a file with these items in its packed part. [SHELF-6] to [SHELF-10]"""
    offsets: dict[int, int] = {}
    entries = b""
    for name, item in items.items():
        offsets[oids[name]] = 16 + len(entries)
        record = record_of(oids, name, item)
        entries += struct.pack(">QQ", 8 + len(record), oids[name]) + record
    start = 16 + len(entries)
    count = max(offsets) + 2
    size = ((start + count + 1).bit_length() + 7) // 8
    words, following = b"", count - 1
    for oid in range(count):
        word = offsets.get(oid, start + following)
        following = following if oid in offsets else oid
        words += word.to_bytes(size, "big")
    head = struct.pack(">QQQ", 16 + size * count, size, count)
    return b"SHELF-1\n" + struct.pack(">Q", len(entries)) + entries + head + words


Beginning = Literal["nothing", "4.3", "4.3 packed", "4.3 in the cache", "torn", "4.3 torn"]
BEGINNINGS: tuple[Beginning, ...] = ("nothing", "4.3", "4.3 packed", "4.3 in the cache", "torn", "4.3 torn")


def begin(disk: Disk, beginning: Beginning) -> State:
    """Put the file that a history begins with on the disk, and return the state that it holds."""
    if beginning == "nothing":
        return EMPTY
    oids = {ROOT: 0, "a": 1, "b": 4, "garbage": 2}
    first: State = {
        ROOT: Item(b"of 4.3", ("a", "b")),
        "a": Item(b"A" * 600, ("b", "a")),
        "b": Item(b"b", ()),
        "garbage": Item(b"", ("b",)),
    }
    second = {ROOT: Item(b"of 4.3, too", ("b", "a")), "b": Item(b"b again", ("a",))}
    if beginning == "4.3 packed":
        del first["garbage"]
        data = unsealed_packed_file(oids, first)
    else:
        data = UNSEALED_EMPTY_FILE + unsealed_transaction(oids, first)
    data += bytes(8) + unsealed_transaction(oids, second)
    if beginning == "torn":
        data += struct.pack(">Q", 9999) + b"half a transaction"
    elif beginning == "4.3 packed":
        data += bytes(8)
    elif beginning == "4.3 torn":
        data += bytes(8) + unsealed_transaction(oids, second)[8:]
    disk.put(PATH, data, is_durable=beginning != "4.3 in the cache")
    return reached({**first, **second})


# A history


@contextmanager
def small_steps() -> Iterator[None]:
    """Make packs write and sync often, so that short histories have many operations, and ignore warnings of repairs."""
    with (
        mock.patch.object(progress, "STEP_RECORDS", 2),
        mock.patch.object(new_file, "_WRITE_SIZE", 600),
        mock.patch.object(new_file, "_SYNC_SIZE", 1500),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", DurusWarning)
        yield


SIZES = (3, 3, 3, 40, 700, 2500)


class History:
    """A database in use, and the states that a crash may leave now.

    `states` are that of the last acknowledged commit and those of the attempts since, in this order.
    """

    def __init__(
        self, disk: Disk, chance: random.Random, state: State, is_shared: bool, durability: Durability = "fsync"
    ) -> None:
        self.disk = disk
        self.chance = chance
        self.states = [state]
        self.is_shared = is_shared
        self.durability: Durability = durability
        self.words: list[str] = []
        """The steps that were done, as readable text."""
        self.exists = False
        """True if the database was opened once, so that its file must exist."""
        self._process: SimulatedFileSystem = disk.process()
        self._number = 0
        self.storage: FileStorage | None = None
        self.shared: SharedStorage | None = None
        self.connection: Connection | None = None
        self.other: Connection | None = None

    @property
    def state(self) -> State:
        """The state of the last acknowledged commit."""
        return self.states[0]

    def say(self, words: str) -> None:
        self.words.append(f"[{self.disk.operations}] {words}")

    # Opening and closing

    def opened(self) -> Connection:
        if self.connection is None:
            self.open()
        assert self.connection is not None
        return self.connection

    def open(self, repair: bool = True) -> None:
        self.say("open")
        self.storage = FileStorage(
            PATH,
            repair=repair,
            durability=self.durability,
            file_system=self._process,
            clock=lambda: "2026-01-02T03:04:05.000006Z",
        )
        try:
            if self.is_shared:
                self.shared = SharedStorage(self.storage)
            self.connect()
        except BaseException:
            self.close()
            raise
        self.exists = True

    def connect(self) -> None:
        """Open connections to the storage."""
        assert self.storage is not None
        if self.shared is None:
            self.connection = Connection(self.storage)
        else:
            self.connection = Connection(self.shared.new_client())
            self.other = Connection(self.shared.new_client())

    def close(self) -> None:
        if self.storage is not None:
            self.say("close")
            self.storage.close()
        self.storage = self.shared = self.connection = self.other = None

    def reopen(self) -> None:
        self.close()
        self.open()

    def restart(self) -> None:
        """Kill the process, and open the file in another one."""
        self.say("the process is killed")
        self._process.kill()
        self.close()
        self._process = self.disk.process()
        self.open()

    # Transactions

    def edit(self, connection: Connection) -> State:
        """Begin a transaction, change some objects in it, and return the state that it will make."""
        connection.abort()
        shown, objects = read(connection)
        assert shown == self.state, "memory shows another state than the last acknowledged commit"
        items = dict(shown)
        for _ in range(self.chance.choice((1, 1, 2, 4))):
            name = self.chance.choice(list(reached(items)))
            self._edit(items, objects, name)
        return reached(items)

    def _edit(self, items: State, objects: Objects, name: str) -> None:
        text, links = items[name]
        match self.chance.choice(("text", "text", "new", "new", "unlink", "link")):
            case "text":
                text = self.chance.randbytes(self.chance.choice(SIZES))
                self.say(f"  {name} holds {len(text)} bytes {text[:3].hex()}")
            case "new":
                while (new := f"n{self._number}") in objects:
                    self._number += 1
                objects[new] = Node(new)
                items[new] = Item(self.chance.randbytes(self.chance.choice(SIZES)), ())
                write(objects, new, items[new])
                links = (*links, new)
                self.say(f"  {name} refers to a new {new} of {len(items[new].text)} bytes")
            case "unlink" if links:
                gone = self.chance.randrange(len(links))
                self.say(f"  {name} does not refer to {links[gone]}")
                links = links[:gone] + links[gone + 1 :]
            case _:
                other = self.chance.choice([each for each in reached(items) if each != ROOT] or [""])
                if other:
                    links = (*links, other)
                    self.say(f"  {name} refers to {other}")
        items[name] = Item(text, links)
        write(objects, name, items[name])

    def commit(self) -> None:
        self.commit_on(self.opened())

    def commit_of_the_other(self) -> None:
        """Commit through the second connection of a shared storage."""
        self.opened()
        self.commit_on(self.other or self.opened())

    def commit_on(self, connection: Connection) -> None:
        self.say("change" if connection is self.connection else "the other client changes")
        state = self.edit(connection)
        self.say("commit")
        self.states.append(state)
        connection.commit()
        self.states = [state]

    def abort(self) -> None:
        self.say("change")
        self.edit(self.opened())
        self.say("abort")
        self.opened().abort()

    def commit_together(self) -> None:
        """Let several clients commit, and write their commits in one go."""
        connection = self.opened()
        if self.storage is None or self.shared is None:
            self.commit()
            return
        connection.abort()
        shown, objects = read(connection)
        assert shown == self.state, "memory shows another state than the last acknowledged commit"
        oids = {name: int.from_bytes(obj._p_oid, "big") for name, obj in objects.items()}
        items = dict(shown)
        core: SessionCore = self.shared._core
        told: list[DurusError | None] = []
        names = self.chance.sample(list(items), min(3, len(items)))
        sessions = [core.connect() for _ in names]
        for session, name in zip(sessions, names, strict=True):
            items[name] = Item(self.chance.randbytes(self.chance.choice(SIZES)), items[name].links)
            self.say(f"  together: {name} holds {len(items[name].text)} bytes")
            session.begin_commit(lambda invalid: None)
            session.commit({struct.pack(">Q", oids[name]): record_of(oids, name, items[name])}, told.append)
        assert told == [], "a commit was acknowledged before it was written"
        self.states.append(items)
        writing = core.begin_write()
        error: DurusError | None = None
        try:
            writing.write()
        except DurusError as failure:
            error = failure
        except BaseException:
            error = TransactionError("interrupted")
            raise
        finally:
            writing.finish(error)
            for session in sessions:
                session.close()
        assert told == [error] * len(names)
        if error is not None:
            raise error
        self.states = [items]

    # Packs

    def pack(self) -> None:
        self.opened()
        self.say("pack")
        self.opened().pack()
        self.say("packed")

    def pack_in_steps(self) -> None:
        """Pack with commits between some of the steps."""
        self._pack_with_commits(0.4)

    def pack_with_a_commit_at_each_step(self) -> None:
        self._pack_with_commits(1.0)

    def _pack_with_commits(self, share: float) -> None:
        packer: Any = self.opened().get_storage().get_packer()
        self.say("pack in steps")
        try:
            for _ in packer:
                if self.chance.random() < share:
                    self.commit()
        finally:
            packer.close()
        self.say("packed")

    def give_up_a_pack(self) -> None:
        """Pack a few steps, with a commit, and no further."""
        packer: Any = self.opened().get_storage().get_packer()
        self.say("begin to pack")
        try:
            for _ in range(self.chance.randrange(1, 4)):
                next(packer, None)
            self.commit()
        finally:
            packer.close()
        self.say("give up the pack")


Step = Callable[[History], object]

STEPS: tuple[Step, ...] = (
    *(4 * (History.commit,)),
    *(2 * (History.commit_of_the_other,)),
    History.abort,
    History.commit_together,
    History.pack,
    *(2 * (History.pack_in_steps,)),
    History.give_up_a_pack,
    History.reopen,
    History.restart,
)

SCRIPTS: dict[str, tuple[Beginning, bool, tuple[Step, ...]]] = {
    "create": ("nothing", False, (History.open, History.commit, History.commit)),
    "commit": ("nothing", True, (History.commit, History.commit_of_the_other, History.commit_together)),
    "pack": ("nothing", False, (History.commit, History.commit, History.pack, History.commit)),
    "pack in steps": ("nothing", True, (History.commit, History.pack_in_steps, History.commit)),
    "pack with commits": ("nothing", False, (History.commit, History.pack_with_a_commit_at_each_step, History.commit)),
    "pack twice": ("nothing", False, (History.commit, History.pack, History.commit, History.pack, History.reopen)),
    "restart": ("nothing", False, (History.commit, History.restart, History.commit, History.pack, History.restart)),
    "4.3": ("4.3", False, (History.open, History.commit, History.pack, History.commit)),
    "4.3 packed": ("4.3 packed", True, (History.commit, History.pack_in_steps, History.commit)),
    "4.3 in the cache": ("4.3 in the cache", False, (History.commit, History.commit)),
    "repair": ("torn", False, (History.open, History.commit, History.reopen)),
    "4.3 repair": ("4.3 torn", False, (History.open, History.commit, History.pack)),
}
"""Short histories: the initial file, whether a session core is between, and the steps."""
