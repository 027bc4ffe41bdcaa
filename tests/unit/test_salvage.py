"""Salvaging damaged files: undamaged objects are copied, and nothing wrong counts as sound. spec/salvage.md."""

import json
import random
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from durus.cli.main import main
from durus.connection import Connection
from durus.error import (
    AlreadyExistsError,
    ArgumentError,
    DamageError,
    DurusError,
    DurusKeyError,
    DurusWarning,
    FileError,
    FormatError,
)
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.shelf.block_table import BLOCK_SIZE
from durus.files.shelf.flipped_bit import find_flipped_bit
from durus.files.shelf.layout import SEAL_SIZE, find_seals
from durus.files.shelf.salvage import MAX_MENDED
from durus.files.shelf.shelf import Shelf
from durus.objects.broken import BrokenObject
from durus.oid import oid_from_int, oid_to_int
from durus.persistent import Persistent
from durus.tools.salvage import Salvage
from tests.model.histories import ROOT, UNSEALED_EMPTY_FILE, Item, unsealed_transaction
from tests.model.simulated_files import Disk
from tests.salvaging import Original, check, check_flip, salvaged

PATH, NEW = "/damaged/f.durus", "/new/f.durus"


class Node(Persistent):
    def __init__(self, text: str, *links: "Node") -> None:
        self.text = text
        self.links = list(links)


def small(storage: FileStorage, seed: int = 0) -> None:
    """Make some commits, each with several objects, some of which have older states."""
    chance = random.Random(seed)
    connection = Connection(storage)
    root: Any = connection.get_root()
    nodes: list[Node] = []
    for number in range(4):
        for _ in range(3):
            nodes.append(Node(f"{number} " + "x" * chance.randrange(30), *chance.sample(nodes, min(2, len(nodes)))))
        for node in chance.sample(nodes, 2):
            node.text += "!"
        root["nodes"] = list(nodes)
        connection.commit()


def small_packed(storage: FileStorage) -> None:
    """The same with a packed part before it."""
    small(storage)
    storage.pack()
    connection = Connection(storage)
    root: Any = connection.get_root()
    for node in root["nodes"][:5]:
        node.text = "after the pack"
        connection.commit()


def large_packed(storage: FileStorage) -> None:
    """A packed part of several blocks, whose objects have texts of different lengths."""
    connection = Connection(storage)
    root: Any = connection.get_root()
    chance = random.Random(0)
    root["nodes"] = [Node(chance.randbytes(chance.randrange(200)).hex()) for _ in range(400)]
    connection.commit()
    storage.pack()


MAKERS: dict[str, Callable[[FileStorage], None]] = {
    "small": small,
    "small packed": small_packed,
    "large packed": large_packed,
}


@pytest.fixture(scope="module")
def originals() -> dict[str, Original]:
    return {name: Original(make) for name, make in MAKERS.items()}


# One flipped bit


@pytest.mark.spec("SALV-4", "SALV-7")
@pytest.mark.parametrize(("name", "step"), [("small", 3), ("small packed", 5), ("large packed", 997)])
def test_flipped_bit_damages_only_the_object_it_is_in(originals: dict[str, Original], name: str, step: int) -> None:
    original = originals[name]
    for offset in range(0, len(original.data), step):
        check_flip(original, offset, offset % 8)


@pytest.mark.spec("SALV-4")
def test_flipped_bit_is_found_by_its_checksum() -> None:
    chance = random.Random(1)
    for size in (1, 2, 10, 1000):
        data = bytearray(chance.randbytes(size))
        stated = crc32(data, 7)
        index, bit = chance.randrange(size), chance.randrange(8)
        data[index] ^= 1 << bit
        assert find_flipped_bit(size, crc32(data, 7), stated) == (index, bit)
        assert find_flipped_bit(size, stated, stated) is None


@pytest.mark.spec("SALV-4", "SALV-7", "SALV-8")
def test_flipped_bit_in_many_bytes_is_not_put_back(tmp_path: Path) -> None:
    path = tmp_path / "f.durus"
    storage = FileStorage(path)
    connection = Connection(storage)
    root: Any = connection.get_root()
    text = random.Random(0).randbytes(MAX_MENDED).hex()
    root["a"], root["b"] = Node(text), Node("b")
    connection.commit()
    storage.close()
    data = bytearray(path.read_bytes())
    data[-SEAL_SIZE - MAX_MENDED // 2] ^= 1
    salvage, records = salvaged(bytes(data))
    assert (salvage.mended, [each.oid for each in salvage.older], list(records)) == ([], [bytes(8)], [bytes(8)])
    salvage, records = salvaged(bytes(data), takes_newest=True)
    assert [each.oid for each in salvage.doubtful] == [bytes(8), oid_from_int(2)]
    (lost,) = salvage.lost
    assert lost == (oid_from_int(1), f"{__name__}.Node", (bytes(8),))
    assert list(records) == [bytes(8), oid_from_int(1), oid_from_int(2)]


# More than a bit


@pytest.mark.spec("SALV-1", "SALV-2", "SALV-3", "SALV-7")
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"noise"])
@pytest.mark.parametrize(("name", "size"), [("small", 64), ("small packed", 64), ("large packed", 512)])
def test_damaged_bytes_lose_only_the_objects_of_their_block_or_commit(
    originals: dict[str, Original], name: str, size: int, fill: bytes
) -> None:
    original = originals[name]
    chance = random.Random(size)
    seals = _seal_ends(original.data)
    packed_end = 0 if name == "small" else Shelf(_file(original.data)).map.end
    for start in range(0, len(original.data), size if name != "large packed" else 7 * size):
        end = min(start + size, len(original.data))
        filling = chance.randbytes(end - start) if fill == b"noise" else fill * (end - start)
        data = original.data[:start] + filling + original.data[end:]
        hit = set()
        if start < packed_end:
            hit |= original.hit(start // BLOCK_SIZE * BLOCK_SIZE, min(-(-end // BLOCK_SIZE) * BLOCK_SIZE, packed_end))
        if packed_end and start < packed_end + 2 * 8 + SEAL_SIZE and end > packed_end + 8 + SEAL_SIZE:
            hit |= original.hit(0, packed_end)  # neither the first seal nor the block table says what is sound
        if end > packed_end:
            first = max([each for each in seals if each <= start] or [packed_end])
            last = min([each for each in seals if each - SEAL_SIZE >= end] or [len(data)])
            hit |= original.hit(first, last)
        check(original, data, hit)


def _file(data: bytes) -> Any:
    disk = Disk()
    disk.put(PATH, data)
    return disk.process().open(PATH, "read")


def _seal_ends(data: bytes) -> list[int]:
    return [offset + SEAL_SIZE for offset in find_seals(data, 0)]


def edited(data: bytes, chance: random.Random) -> bytes:
    """Return data in which bytes were changed, cut out or inserted."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        start = chance.randrange(len(changed))
        end = min(len(changed), start + chance.choice((1, 2, 8, 50, 400)))
        match chance.randrange(5):
            case 0:
                changed[start] ^= 1 << chance.randrange(8)
            case 1:
                changed[start:end] = bytes(end - start)
            case 2:
                changed[start:end] = chance.randbytes(end - start)
            case 3:
                del changed[start:end]
            case _:
                changed[start:start] = changed[end : end + 100]
    return bytes(changed)


@pytest.mark.spec("SALV-2", "SALV-3", "SALV-7", "SALV-8")
@pytest.mark.parametrize("name", ["small", "small packed"])
def test_no_wrong_state_is_copied_without_a_report_whatever_happened(originals: dict[str, Original], name: str) -> None:
    original = originals[name]
    chance = random.Random(name)
    salvages = 0
    for _ in range(250):
        try:
            salvage, records = salvaged(edited(original.data, chance))
        except FormatError:
            continue
        salvages += 1
        told = {each.oid for each in salvage.doubtful} | {each.oid for each in salvage.lost}
        for oid, record in records.items():
            assert oid in told or record in [each for _, _, each in original.records[oid]]
    assert salvages > 200


@pytest.mark.spec("SALV-3")
def test_bytes_that_are_missing_make_what_follows_doubtful(originals: dict[str, Original]) -> None:
    original = originals["small packed"]
    salvage, records = salvaged(original.data[:1000] + original.data[1001:])
    assert {each.oid for each in salvage.doubtful} | {each.oid for each in salvage.lost} == set(records)


@pytest.mark.spec("SALV-5")
def test_file_that_ends_in_the_middle_of_a_commit_has_all_before(originals: dict[str, Original]) -> None:
    original = originals["small"]
    last, end = _seal_ends(original.data)[-2:]
    salvage, records = salvaged(original.data[: end - SEAL_SIZE])
    assert {each.oid for each in salvage.older} <= original.hit(last, end)
    assert salvage.older
    assert salvage.damage
    salvage, records = salvaged(original.data[:last])
    assert salvage.is_complete
    assert len(records) == salvage.objects


@pytest.mark.spec("SALV-5")
@pytest.mark.parametrize("size", [1, 600])
def test_zeros_after_the_last_seal_lose_nothing(originals: dict[str, Original], size: int) -> None:
    original = originals["small"]
    salvage, records = salvaged(original.data + bytes(size))
    assert records == original.newest
    assert (salvage.older, salvage.doubtful, salvage.lost) == ([], [], [])


@pytest.mark.spec("SALV-3")
def test_file_without_seals_is_copied_by_its_layout() -> None:
    oids = {ROOT: 0, "a": 1}
    data = UNSEALED_EMPTY_FILE + unsealed_transaction(oids, {ROOT: Item(b"x", ("a",)), "a": Item(b"a", ())})
    salvage, records = salvaged(data)
    assert salvage.is_complete
    assert list(records) == [bytes(8), oid_from_int(1)]
    salvage, records = salvaged(data + b"\xff" * 30)
    assert len(records) == 2
    assert not salvage.is_complete


@pytest.mark.spec("SALV-6")
@pytest.mark.parametrize("data", [b"", b"SHELF-1\n", b"something else", bytes(5000)])
def test_file_that_holds_nothing_of_a_database_is_refused(data: bytes) -> None:
    disk = Disk()
    disk.put(PATH, data)
    with pytest.raises(FormatError, match="neither a header nor a seal"):
        for _ in Salvage(PATH, NEW, file_system=disk.process()).steps():
            pass
    assert list(disk.names) == [PATH]


@pytest.mark.spec("SALV-6")
def test_sound_file_is_copied_as_it_is(originals: dict[str, Original]) -> None:
    for original in originals.values():
        salvage, records = salvaged(original.data)
        assert records == original.newest
        assert salvage.is_complete
        assert (salvage.objects, salvage.mended) == (len(records), [])


# What is lost


def damaged_file(path: Path, *, hides: str) -> None:
    """Write a file in which the only record of an object is zeros; the text of the object says which."""
    storage = FileStorage(path)
    connection = Connection(storage)
    root: Any = connection.get_root()
    root["first"] = Node("the first one", Node("the second one"))
    connection.commit()
    storage.pack()
    storage.close()
    data = path.read_bytes()
    index = data.index(hides.encode())
    path.write_bytes(data[: index - 60] + bytes(60 + len(hides)) + data[index + len(hides) :])


@pytest.mark.spec("SALV-9", "SALV-10")
def test_broken_object_stands_for_one_that_is_lost(tmp_path: Path) -> None:
    damaged_file(tmp_path / "f.durus", hides="the second one")
    salvage = Salvage(tmp_path / "f.durus", tmp_path / "new.durus")
    for _ in salvage.steps():
        pass
    assert salvage.lost == [(oid_from_int(2), f"{__name__}.Node", (oid_from_int(1),))]
    connection = Connection(FileStorage(tmp_path / "new.durus"))
    root: Any = connection.get_root()
    lost = root["first"].links[0]
    assert lost._p_oid == oid_from_int(2)
    lost._p_load_state()
    assert isinstance(lost, BrokenObject)
    assert (lost.lost_oid, lost.lost_class) == (2, f"{__name__}.Node")
    root["first"].links = []
    connection.commit()
    connection.get_storage().close()


@pytest.mark.spec("SALV-9")
def test_empty_root_stands_for_one_that_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "f.durus"
    storage = FileStorage(path)
    connection = Connection(storage)
    root: Any = connection.get_root()
    root["a"] = Node("a")
    connection.commit()
    storage.pack()
    storage.close()
    data = path.read_bytes()
    index = data.index(b"cdurus.persistent_dict")
    path.write_bytes(data[: index - 20] + bytes(20) + data[index:])
    salvage = Salvage(path, tmp_path / "new.durus")
    for _ in salvage.steps():
        pass
    assert salvage.lost == [(bytes(8), None, ())]
    assert [each.oid for each in salvage.doubtful] == [oid_from_int(1)]
    connection = Connection(FileStorage(tmp_path / "new.durus"))
    assert dict(connection.get_root()) == {}
    assert isinstance(connection.get(1), Node)
    connection.get_storage().close()


@pytest.mark.spec("SALV-11")
def test_new_file_takes_the_place_of_none_and_has_the_mode_of_the_old_one(tmp_path: Path) -> None:
    path, new = tmp_path / "f.durus", tmp_path / "new.durus"
    damaged_file(path, hides="the second one")
    path.chmod(0o640)
    new.write_text("mine")
    with pytest.raises(AlreadyExistsError):
        list(Salvage(path, new).steps())
    assert new.read_text() == "mine"
    new.unlink()
    list(Salvage(path, new).steps())
    assert new.stat().st_mode & 0o777 == 0o640
    with pytest.raises(FileError):
        list(Salvage(tmp_path / "nothing", tmp_path / "newer").steps())


# The command


@pytest.mark.spec("CMD-1", "SALV-12")
def test_salvaging_command_tells_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    damaged_file(tmp_path / "f.durus", hides="the second one")
    assert main(["salvage", "f.durus", "new.durus"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("f.durus: byte 0 to ")
    assert f"f.durus: oid 2 ({__name__}.Node) is lost; oid 1 refer to it" in told
    assert told[-1] == (
        "f.durus: 2 objects, 0 of them with an older state and 2 with a doubtful one, and stand-ins for 1 lost ones "
        "copied to new.durus"
    )
    assert main(["check", "new.durus"]) == 0
    capsys.readouterr()
    assert main(["salvage", "new.durus", "newer.durus"]) == 0
    assert capsys.readouterr().out == "new.durus: 3 objects, each with its newest state, copied to newer.durus\n"
    assert main(["salvage", "f.durus", "new.durus"]) == 1
    assert "already exists" in capsys.readouterr().err


@pytest.mark.spec("SALV-12")
def test_report_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], originals: dict[str, Original]
) -> None:
    monkeypatch.chdir(tmp_path)
    original = originals["small"]
    oid, records = next((oid, records) for oid, records in original.records.items() if len(records) > 1)
    data = bytearray(original.data)
    data[records[-1][0] + 40] ^= 1
    Path("f.durus").write_bytes(data)
    assert main(["salvage", "--json", "f.durus", "new.durus"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert {key: report[key] for key in ("file", "new", "format", "complete", "objects")} == {
        "file": "f.durus",
        "new": "new.durus",
        "format": "SHELF-1",
        "complete": False,
        "objects": len(original.newest),
    }
    assert (report["damage"], report["doubtful"], report["lost"]) == ([], [], [])
    assert report["mended"] == [records[-1][0] + 40]
    (older,) = report["older"]
    assert older["oid"] == int.from_bytes(oid, "big")
    assert (older["offset"], older["damaged_offset"]) == (records[-2][0], records[-1][0])
    assert main(["salvage", "--newest", "f.durus", "newest.durus"]) == 1
    assert "no checksum vouches for its state" in capsys.readouterr().out


@pytest.mark.spec("SALV-6", "SALV-12")
def test_salvaging_command_refuses_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    FileStorage2("f.durus").close()
    assert main(["salvage", "f.durus", "new.durus"]) == 1
    assert "this is not a SHELF-1 file" in capsys.readouterr().err
    assert not Path("new.durus").exists()


# A damaged file in use


def sound_part(data: bytes) -> FileStorage:
    disk = Disk()
    disk.put(PATH, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DurusWarning)
        return FileStorage(PATH, readonly=True, damaged=True, file_system=disk.process())


@pytest.mark.spec("SALV-13", "SALV-14")
@pytest.mark.parametrize(("name", "step"), [("small", 3), ("small packed", 5), ("large packed", 997)])
def test_a_flipped_bit_keeps_only_its_own_object_from_being_loaded(
    originals: dict[str, Original], name: str, step: int
) -> None:
    original = originals[name]
    for offset in range(0, len(original.data), step):
        damaged = bytearray(original.data)
        damaged[offset] ^= 1 << offset % 8
        storage = sound_part(bytes(damaged))
        for oid, newest in original.newest.items():
            start, end, _ = original.records[oid][-1]
            if start <= offset < end:
                with pytest.raises(DamageError, match=f"oid {oid_to_int(oid)} "):
                    storage.load(oid)
            else:
                assert storage.load(oid) == newest
        storage.close()


@pytest.mark.spec("SALV-13", "SALV-14")
@pytest.mark.parametrize("name", MAKERS)
def test_no_wrong_state_is_loaded_whatever_happened(originals: dict[str, Original], name: str) -> None:
    original = originals[name]
    chance = random.Random(7)
    for _ in range(30):
        try:
            storage = sound_part(edited(original.data, chance))
        except FormatError:
            continue
        for oid, records in original.records.items():
            try:
                record = storage.load(oid)
            except (DamageError, DurusKeyError):
                continue
            assert record in [each for _, _, each in records]
        storage.close()


@pytest.mark.spec("SALV-14")
@pytest.mark.parametrize(
    ("bytes_before", "problem"),
    [
        (0, "the state of oid 2 that is here is damaged"),
        (60, "oid 2 is not in what can be read; the file is damaged up to byte "),
    ],
)
def test_what_is_damaged_is_told_with_a_command_that_works(
    bytes_before: int, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it's f.durus"
    connection = Connection(FileStorage(path))
    root: Any = connection.get_root()
    root["first"] = Node("the first one", Node("the second one"))
    connection.commit()
    root["first"].text = "changed"
    root["more"] = 1
    connection.commit()
    connection.get_storage().close()
    data, hidden = path.read_bytes(), b"the second one"
    index = data.index(hidden) - bytes_before
    path.write_bytes(data[:index] + bytes(bytes_before + len(hidden)) + data[index + bytes_before + len(hidden) :])
    Path(f"{path}.salvaged").write_text("in the way")

    with pytest.warns(DurusWarning, match="only what is sound is shown: byte "):
        storage = FileStorage(path, readonly=True, damaged=True)
    root = Connection(storage).get_root()
    assert root["first"].text == "changed"
    with pytest.raises(DamageError, match=problem) as caught:
        root["first"].links[0]._p_load_state()
    assert "at byte " in str(caught.value)
    command = shlex.split(str(caught.value).split("`")[1])
    assert command[:2] == ["durus", "salvage"]
    assert main(command[1:]) == 1
    assert "oid 2 " in capsys.readouterr().out
    assert Path(f"{path}.salvaged1").exists()
    with pytest.raises(DurusError, match="no history"):
        storage.commits()
    assert {oid for oid, _ in storage.gen_oid_record()} == {bytes(8), oid_from_int(1)}
    storage.close()


@pytest.mark.spec("SALV-13")
def test_an_older_state_is_not_shown_in_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "f.durus"
    connection = Connection(FileStorage(path))
    root: Any = connection.get_root()
    for text in ("the old state", "the new state", "another"):
        root["text"] = text
        connection.commit()
    connection.storage.close()
    path.write_bytes(path.read_bytes().replace(b"another", b"an0ther"))
    with pytest.warns(DurusWarning, match="the newest state of oid 0"):
        storage = FileStorage(path, readonly=True, damaged=True)
    with pytest.raises(DamageError, match="the state of oid 0 that is here is damaged"):
        storage.load(bytes(8))
    storage.close()


@pytest.mark.spec("SALV-13")
def test_a_sound_file_is_shown_whole_and_without_a_warning(originals: dict[str, Original]) -> None:
    original = originals["small packed"]
    disk = Disk()
    disk.put(PATH, original.data)
    storage = FileStorage(PATH, readonly=True, damaged=True, file_system=disk.process())
    assert dict(storage.gen_oid_record()) == original.newest
    with pytest.raises(DurusKeyError):
        storage.load(oid_from_int(10_000))
    storage.close()


def test_damaged_goes_with_readonly_only(tmp_path: Path) -> None:
    for options in ({"readonly": False}, {"readonly": True, "at": 1}):
        with pytest.raises(ArgumentError, match="damaged=True requires readonly=True"):
            FileStorage(tmp_path / "f.durus", damaged=True, **options)
