"""A server with readonly=True follows the process that writes its file. [CMD-63]"""

import errno
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import DurusWarning, FileError, ReadonlyError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.file import File, Mode, OperatingSystem, OperatingSystemFile
from durus.oid import ROOT_OID, oid_from_int
from durus.persistent_dict import PersistentDict
from durus.records.record import pack_record
from durus.sharing.session import SessionCore
from durus.storage import Storage
from durus.storage_server import StorageServer
from tests.threaded_server import running

ONE, TWO = oid_from_int(1), oid_from_int(2)
SECONDS = 30
formats = pytest.mark.parametrize("make", [FileStorage, FileStorage2], ids=["shelf", "dfs20"])


def put(storage: Storage, data: bytes, *oids: bytes) -> None:
    storage.begin()
    for oid in oids or (ROOT_OID, ONE, TWO):
        storage.store(oid, pack_record(oid, data, ONE + TWO if oid == ROOT_OID else b""))
    storage.end()


def data_of(record: bytes | None) -> bytes:
    assert record is not None
    return record[12:13]


@formats
@pytest.mark.spec("CMD-63")
def test_clients_hear_at_their_next_sync_of_what_was_appended(tmp_path: Path, make: Callable[..., Storage]) -> None:
    writer = make(tmp_path / "f")
    put(writer, b"a")
    core = SessionCore(make(tmp_path / "f", readonly=True))
    session = core.connect()
    core.follow(core.look_ahead())
    assert session.sync() == []
    put(writer, b"b", ONE)
    put(writer, b"c", TWO)
    core.follow(core.look_ahead())
    assert session.load(ONE) is None
    assert data_of(session.load(ROOT_OID)) == b"a"
    assert set(session.sync() or ()) == {ONE, TWO}
    assert [data_of(session.load(oid)) for oid in (ROOT_OID, ONE, TWO)] == [b"a", b"b", b"c"]


@formats
@pytest.mark.spec("CMD-63", "CMD-67")
def test_what_was_read_ahead_is_shown_without_another_look_at_the_file(
    tmp_path: Path, make: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: OperatingSystemFile, offset: int, size: int) -> bytes:
        raise FileError(errno.EIO, "the disk is gone", file.path)

    writer = make(tmp_path / "f")
    put(writer, b"a")
    core = SessionCore(make(tmp_path / "f", readonly=True))
    session = core.connect()
    put(writer, b"b", ONE)
    news = core.look_ahead()
    with monkeypatch.context() as patch:
        patch.setattr(OperatingSystemFile, "read_at", fail)
        core.follow(news)
    assert session.sync() == [ONE]
    assert data_of(session.load(ONE)) == b"b"
    core.follow(core.look_ahead())
    assert session.sync() == []


@formats
@pytest.mark.spec("CMD-63")
def test_a_snapshot_shows_its_state_while_the_file_grows_and_is_packed(
    tmp_path: Path, make: Callable[..., Storage]
) -> None:
    writer = make(tmp_path / "f")
    put(writer, b"a")
    core = SessionCore(make(tmp_path / "f", readonly=True))
    held: list[tuple[bytes, object]] = []
    for data in (b"b", b"c", b"d", b"e"):
        session = core.connect()
        session.take_snapshot()
        held.append((data_of(session.load_from_snapshot(ONE)), session))
        put(writer, data, ONE)
        core.follow(core.look_ahead())
        if data == b"c":
            writer.pack()
            put(writer, b"x", TWO)
            core.follow(core.look_ahead())
    states = [(data, data_of(session.load_from_snapshot(ONE))) for data, session in held]  # type: ignore[attr-defined]
    assert states == [(b"a", b"a"), (b"b", b"b"), (b"c", b"c"), (b"d", b"d")]
    before_the_pack, after = (session.load_from_snapshot(TWO) for _, session in (held[1], held[2]))  # type: ignore[attr-defined]
    assert (data_of(before_the_pack), data_of(after)) == (b"a", b"x")


@pytest.mark.spec("CMD-63")
def test_the_file_from_before_a_pack_is_open_as_long_as_a_snapshot_shows_it(tmp_path: Path) -> None:
    def open_files() -> int:
        paths = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
        return sum(path.startswith(str(tmp_path)) for path in paths)

    writer = FileStorage(tmp_path / "f")
    put(writer, b"a")
    core = SessionCore(FileStorage(tmp_path / "f", readonly=True))
    session = core.connect()
    session.take_snapshot()
    before = open_files()
    writer.pack()
    core.follow(core.look_ahead())
    assert open_files() == before + 1
    session.drop_snapshot()
    core.connect().take_snapshot()
    assert open_files() == before
    writer.pack()
    core.follow(core.look_ahead())
    core.follow(core.look_ahead())
    core.connect().take_snapshot()
    core.storage.close()
    writer.close()


@pytest.mark.spec("CMD-63")
def test_a_commit_is_refused(short_path: Path) -> None:
    writer = FileStorage(short_path / "f")
    put(writer, b"a")
    with (
        following(short_path / "f", short_path / "s") as server,
        closing(ClientStorage(address=server.address)) as client,
    ):
        with pytest.raises(ReadonlyError, match="open with readonly=True"):
            put(client, b"b", ONE)
        assert data_of(client.load(ONE)) == b"a"


@pytest.mark.spec("CMD-63")
@pytest.mark.parametrize("protocol", [1, 2])
def test_clients_of_a_server_see_each_commit_as_one_within_a_second(short_path: Path, protocol: int) -> None:
    writer = Connection(FileStorage(short_path / "f", durability="os"))
    root = writer.get_root()
    parts = root["parts"] = PersistentDict({n: PersistentDict(value=0) for n in range(5)})
    writer.commit()
    seen: list[int] = []
    with (
        following(short_path / "f", short_path / "s") as server,
        closing(ClientStorage(address=server.address, protocol=protocol)) as client,
    ):
        reader = Connection(client, snapshot=protocol == 2)
        for value in range(1, 6):
            for part in parts.values():
                part["value"] = value
            writer.commit()
            if value == 3:
                writer.pack()
            since = time.monotonic()
            while not seen or seen[-1] != value:
                reader.abort()
                states = {part["value"] for part in reader.get_root()["parts"].values()}
                assert len(states) == 1
                seen.append(states.pop())
                assert time.monotonic() - since < SECONDS
    assert seen == sorted(seen)


@pytest.mark.spec("CMD-63")
def test_what_rsync_appends_in_pieces_is_shown_when_a_commit_is_complete(tmp_path: Path) -> None:
    writer = FileStorage(tmp_path / "f")
    put(writer, b"a")
    shutil.copy(tmp_path / "f", tmp_path / "copy")
    core = SessionCore(FileStorage(tmp_path / "copy", readonly=True))
    session = core.connect()
    put(writer, b"b", ONE)
    whole = (tmp_path / "f").read_bytes()
    known = (tmp_path / "copy").stat().st_size
    for end in range(known + 1, len(whole) + 1, 7):
        with open(tmp_path / "copy", "ab") as copy:
            copy.write(whole[copy.tell() : end])
        core.follow(core.look_ahead())
        assert session.sync() == ([] if end < len(whole) else [ONE])
    with open(tmp_path / "copy", "ab") as copy:
        copy.write(whole[copy.tell() :])
    core.follow(core.look_ahead())
    session.sync()
    assert data_of(session.load(ONE)) == b"b"


@pytest.mark.spec("CMD-63")
def test_a_file_that_was_written_anew_is_read_anew_with_a_warning(tmp_path: Path) -> None:
    writer = FileStorage(tmp_path / "f")
    put(writer, b"a")
    size = (tmp_path / "f").stat().st_size
    put(writer, b"b")
    core = SessionCore(FileStorage(tmp_path / "f", readonly=True))
    session = core.connect()
    assert data_of(session.load(ONE)) == b"b"
    os.truncate(tmp_path / "f", size)
    with pytest.warns(DurusWarning, match="it is read again"):
        core.follow(core.look_ahead())
    assert session.load(ONE) is None
    assert session.sync() is None
    assert data_of(session.load(ONE)) == b"a"


@pytest.mark.spec("CMD-63")
def test_while_the_file_is_missing_clients_see_the_last_state(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = FileStorage(short_path / "f")
    put(writer, b"a")
    writer.close()
    told = threading.Event()

    def note(record: logging.LogRecord) -> bool:
        if "No such file" in record.getMessage():
            told.set()
        return True

    caplog.handler.addFilter(note)
    with (
        following(short_path / "f", short_path / "s") as server,
        closing(ClientStorage(address=server.address)) as client,
    ):
        os.rename(short_path / "f", short_path / "moved")
        assert told.wait(SECONDS)
        client.sync()
        assert data_of(client.load(ONE)) == b"a"
        writer = FileStorage(short_path / "moved")
        put(writer, b"b")
        writer.close()
        os.rename(short_path / "moved", short_path / "f")
        since = time.monotonic()
        while client.sync() == []:
            assert time.monotonic() - since < SECONDS
        assert data_of(client.load(ONE)) == b"b"


class Slow(OperatingSystem):
    """Opens files of which nothing is read from a certain offset on before it may be."""

    def __init__(self) -> None:
        self.is_awaited = threading.Event()
        self.may_go_on = threading.Event()
        self.threshold = sys.maxsize
        """That offset, for files that are opened from now on."""
        self.file: File | None = None

    def open(self, path: str, mode: Mode) -> File:
        self.file = file = super().open(path, mode)
        self.slow_down(file, self.threshold)
        return file

    def slow_down(self, file: File, threshold: int) -> None:
        read_at = file.read_at

        def read(offset: int, size: int) -> bytes:
            if offset + size > threshold:
                self.is_awaited.set()
                assert self.may_go_on.wait(SECONDS)
            return read_at(offset, size)

        file.read_at = read  # type: ignore[method-assign]


@pytest.mark.spec("CMD-67")
@pytest.mark.parametrize("is_packed", [False, True], ids=["appended", "packed"])
@pytest.mark.parametrize("has_snapshot", [False, True], ids=["latest", "snapshot"])
def test_clients_are_answered_while_a_file_is_read(short_path: Path, is_packed: bool, has_snapshot: bool) -> None:
    writer = FileStorage(short_path / "f")
    put(writer, b"a")
    files = Slow()
    storage = FileStorage(short_path / "f", readonly=True, file_system=files)
    with (
        running(StorageServer(storage, address=short_path / "s")) as server,
        closing(ClientStorage(address=server.address, prefetch=0, protocol=2)) as client,
    ):
        if has_snapshot:
            client.use_snapshots()
            client.sync()
        if is_packed:
            files.threshold = 0
        else:
            assert files.file is not None
            files.slow_down(files.file, (short_path / "f").stat().st_size)
        put(writer, b"b")
        if is_packed:
            writer.pack()
        assert files.is_awaited.wait(SECONDS)
        assert data_of(client.load(ONE)) == b"a"
        client.sync()
        assert data_of(client.load(ONE)) == b"a"
        assert not files.may_go_on.is_set()
        files.may_go_on.set()
        since = time.monotonic()
        while client.sync() == []:
            assert time.monotonic() - since < SECONDS
        assert data_of(client.load(ONE)) == b"b"


@pytest.mark.spec("CMD-67")
def test_a_server_that_stops_leaves_the_file_open_while_it_is_read(short_path: Path) -> None:
    writer = FileStorage(short_path / "f")
    put(writer, b"a")
    files = Slow()
    storage = FileStorage(short_path / "f", readonly=True, file_system=files)
    closed = threading.Event()
    with running(StorageServer(storage, address=short_path / "s")) as server:
        assert files.file is not None
        close = files.file.close

        def note() -> None:
            closed.set()
            close()

        files.file.close = note  # type: ignore[method-assign]
        files.slow_down(files.file, (short_path / "f").stat().st_size)
        put(writer, b"b")
        assert files.is_awaited.wait(SECONDS)
        connection = server.address.get_connected_socket(SECONDS)
        assert connection is not None
        with closing(connection):
            server.stop()
            assert connection.recv(1) == b""
        assert not closed.is_set()
        files.may_go_on.set()
    assert closed.is_set()


@contextmanager
def following(path: Path, address: Path) -> Iterator[StorageServer]:
    with running(StorageServer(FileStorage(path, readonly=True), address=address)) as server:
        yield server
