"""The readers that take bytes from elsewhere: for any bytes they give a result or a DurusError.

A target is a function of bytes that returns; whatever else it raises is a violation.
"""

import contextlib
import warnings
from collections.abc import Callable

from durus.client_storage import ClientStorage
from durus.error import DurusError, DurusWarning
from durus.file_storage import FileStorage
from durus.files.forward_reader import Unsound
from durus.files.shelf.inspection import ShelfInspection
from durus.files.shelf.offset_map import OffsetMap
from durus.files.shelf.scan import scan_transactions
from durus.files.shelf.shelf import Shelf
from durus.oid import oid_from_int
from durus.records.contents import read_contents
from durus.records.record import extract_class_name, pack_record, parse_class_pickle, split_oids, unpack_record
from durus.sharing.protocol import (
    MAX_COMMIT,
    Commit,
    NewOids,
    Sync,
    encode_commit,
    encode_request,
    read_commit,
    read_oids,
    read_request,
    receive,
)
from durus.sharing.protocol2 import (
    Hello,
    encode_hello,
    parse_conflict,
    parse_failure,
    parse_file_head,
    parse_loaded,
    parse_point,
)
from durus.sharing.protocol2 import read_request as read_request_2
from durus.storage import MemoryStorage
from tests.in_memory_file import MemoryFile, MemoryFileSystem
from tests.in_memory_server import InMemoryServer

ROOT = bytes(8)


def record(data: bytes) -> None:
    """A record, of which nothing is run."""
    with contextlib.suppress(DurusError):
        extract_class_name(data)
    with contextlib.suppress(DurusError):
        _, contents, refs = unpack_record(data)
        split_oids(refs)
        parse_class_pickle(contents)
        read_contents(contents)


def contents(data: bytes) -> None:
    """The data of a record: class pickle and state, compressed or not."""
    with contextlib.suppress(DurusError):
        read_contents(data)


def shelf(data: bytes) -> None:
    """A file: opened to read, checked, repaired, committed to, packed, and its parts read by themselves."""
    file = MemoryFile("/f", bytearray(data))
    with contextlib.suppress(DurusError):
        opened = Shelf(file)
        for oid, _ in opened.offsets():
            with contextlib.suppress(DurusError):
                opened.read(oid)
    with contextlib.suppress(DurusError):
        for finding in ShelfInspection(file).findings():
            str(finding)
    with contextlib.suppress(Unsound, DurusError):
        for _ in scan_transactions(file, 0, len(data), 0):
            pass
    with contextlib.suppress(DurusError):
        offset_map = OffsetMap(file, 0)
        list(offset_map.offsets())
        list(offset_map.holes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DurusWarning)
        with contextlib.suppress(DurusError):
            _use(FileStorage("/f", readonly=True, file_system=MemoryFileSystem(f=data)))
        with contextlib.suppress(DurusError):
            _use(FileStorage("/f", repair=True, file_system=MemoryFileSystem(f=data)))


def _use(storage: FileStorage) -> None:
    with contextlib.suppress(DurusError):
        for oid, _ in storage.gen_oid_record():
            storage.load(oid)
    with contextlib.suppress(DurusError):
        storage.begin()
        storage.store(ROOT, pack_record(ROOT, b"x", b""))
        storage.end()
    with contextlib.suppress(DurusError):
        for _ in range(3):
            storage.new_oid()
        storage.pack()
    storage.close()


def server(data: bytes) -> None:
    """What a client sends, to the server's side of a conversation; others must be served as ever."""
    started = InMemoryServer(MemoryStorage())
    writer = started.connect()
    writer.sendall(encode_request(NewOids(5)) + encode_request(Commit()))
    writer.sendall(encode_commit([(ROOT, pack_record(ROOT, b"x", b""))]))
    attacker = started.connect()
    for place in range(0, len(data), 1000):
        if not attacker.is_closed:
            attacker.sendall(data[place : place + 1000])
    attacker.close()
    other = started.connect()
    for request in (Sync(), Commit()):
        other.sendall(encode_request(request))
        if receive(read_oids(), other.recv) != []:
            raise RuntimeError("another client is told what is not so")


def server_2(data: bytes) -> None:
    """What a client of version 2 sends."""
    server(b"V\0\0\0\2" + data)


def requests_2(data: bytes) -> None:
    """Requests of version 2, read one after the other."""
    source = _Source(data)
    with contextlib.suppress(EOFError, DurusError):
        while True:
            receive(read_request_2(lambda record: None), source)


def answers_2(data: bytes) -> None:
    """The bodies of answers of version 2."""
    for parse in parse_point, parse_conflict, parse_failure, parse_loaded, parse_file_head:
        with contextlib.suppress(DurusError):
            parse(data)


def requests(data: bytes) -> None:
    """Requests and commits, read one after the other."""
    source = _Source(data)
    with contextlib.suppress(EOFError, DurusError):
        while True:
            receive(read_request(), source)
    source = _Source(data)
    with contextlib.suppress(EOFError, DurusError):
        while True:
            receive(read_commit(lambda oid, record: None), source)


class _Source:
    """Gives as many bytes as it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def __call__(self, size: int) -> bytes:
        if not 0 <= size <= MAX_COMMIT:
            raise RuntimeError(f"{size} bytes are asked for")
        if self._place + size > len(self._data):
            raise EOFError
        self._place += size
        return self._data[self._place - size : self._place]


class _Server:
    """Answers whatever it is asked with the bytes that come next."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def sendall(self, data: bytes) -> None:
        pass

    def recv(self, size: int) -> bytes:
        self._place += min(size, 100)
        return self._data[self._place - min(size, 100) : self._place]

    def close(self) -> None:
        pass


def client(data: bytes) -> None:
    """What a server answers, to a ClientStorage."""
    _use_client(_Server(b"\0\0\0\1" + data), protocol=1)


def client_2(data: bytes) -> None:
    """What a server of version 2 answers."""
    _use_client(_Server(b"\0\0\0\2" + encode_hello(Hello()) + data), protocol=2)


def _use_client(server: "_Server", protocol: int) -> None:
    with contextlib.suppress(DurusError):
        storage = ClientStorage(stream=server, protocol=protocol)
        calls: list[Callable[[], object]] = [
            lambda: _load(storage, ROOT),
            lambda: _load(storage, oid_from_int(1)),
            lambda: _load(storage, oid_from_int(2)),
            storage.sync,
            lambda: list(storage.bulk_load([ROOT, oid_from_int(1)])),
            storage.new_oid,
            lambda: _commit(storage),
            lambda: list(storage.gen_oid_record()),
            storage.pack,
            lambda: storage.ask_for_file(b""),
            storage.read_file,
        ]
        for call in calls:
            with contextlib.suppress(DurusError):
                call()


def _load(storage: ClientStorage, oid: bytes) -> None:
    if storage.load(oid)[:8] != oid:
        raise RuntimeError("the record of another object is loaded")


def _commit(storage: ClientStorage) -> None:
    storage.begin()
    storage.store(ROOT, pack_record(ROOT, b"x", oid_from_int(1)))
    storage.end(lambda oids: None)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (record, contents, shelf, server, requests, client, server_2, requests_2, client_2, answers_2)
}
