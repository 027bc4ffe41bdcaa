"""Every Python name that applications of Durus 4.3 import exists, with its parameters, their order and defaults."""

import importlib
import inspect
import io
import logging
import socket
import struct
import threading
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from durus import logger as durus_logger
from durus import utils
from durus.__main__ import get_storage, get_storage_class, start_durus, stop_durus
from durus.btree import BTree
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ArgumentError, ServerUnreachableError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.persistent_dict import PersistentDict
from durus.sqlite_storage import SqliteStorage
from durus.storage_server import wait_for_server

# As introspection of Durus 4.3 shows them.  `= value` is the value of a constant; no parentheses: the parameters
# are not compared, since 4.3 has only *args there.
NAMES = {
    "durus.connection": """
        Connection(storage, cache_size=100000, root_class=None)
        ROOT_OID = bytes(8)
        gen_every_instance(connection, *classes)
        touch_every_reference(connection, *words)
        Connection.get_root(self)
        Connection.get(self, oid)
        Connection.get_storage(self)
        Connection.get_cache(self)
        Connection.get_cache_count(self)
        Connection.get_cache_size(self)
        Connection.set_cache_size(self, size)
        Connection.shrink_cache(self)
        Connection.get_crawler(self, start_oid=ROOT_OID, batch_size=100)
        Connection.get_load_count(self)
        Connection.get_stored_pickle(self, oid)
        Connection.get_transaction_serial(self)
        Connection.load_state(self, obj)
        Connection.note_access(self, obj)
        Connection.note_change(self, obj)
        Connection.abort(self)
        Connection.commit(self)
        Connection.pack(self)
        Connection.__getitem__(self, oid)
    """,
    "durus.persistent": """
        PersistentObject
        Persistent
        ComputedAttribute
        PersistentBase
        ConnectionBase
        UNSAVED = 1
        SAVED = 0
        GHOST = -1
        ComputedAttribute.get(self, compute)
        ComputedAttribute.invalidate(self)
        PersistentObject._p_oid
        PersistentObject._p_status
        PersistentObject._p_serial
        PersistentObject._p_connection
        PersistentObject._p_note_change(self)
        PersistentObject._p_is_ghost(self)
        PersistentObject._p_is_saved(self)
        PersistentObject._p_is_unsaved(self)
        PersistentObject._p_set_status_ghost(self)
        PersistentObject._p_set_status_saved(self)
        PersistentObject._p_set_status_unsaved(self)
        PersistentObject._p_load_state(self)
        PersistentObject._p_format_oid(self)
        PersistentObject._p_gen_data_slots(self)
    """,
    "durus.persistent_dict": """
        PersistentDict
        PersistentDict.has_key(self, key)
        PersistentDict.iteritems(self)
        PersistentDict.iterkeys(self)
        PersistentDict.itervalues(self)
        PersistentDict.keys(self)
        PersistentDict.items(self)
        PersistentDict.values(self)
    """,
    "durus.persistent_list": """
        PersistentList
    """,
    "durus.persistent_set": """
        PersistentSet
    """,
    "durus.btree": """
        BTree(node_constructor=BNode16)
        BNode
        BNode4
        BNode8
        BNode16
        BNode32
        BNode64
        BNode128
        BNode256
        BNode512
        BTree.add(self, key, value=True)
        BTree.get_depth(self)
        BTree.get_min_item(self)
        BTree.get_max_item(self)
        BTree.get_node_count(self)
        BTree.set_bnode_minimum_degree(self, degree)
        BTree.items_backward(self)
        BTree.items_from(self, key, closed=True)
        BTree.items_backward_from(self, key, closed=False)
        BTree.items_range(self, start, end, closed_start=True, closed_end=False)
        BTree.note_change_of_bnode_containing_key(self, key)
        BTree.has_key(self, key)
        BTree.iteritems(self)
        BTree.iterkeys(self)
        BTree.itervalues(self)
        BTree.__reversed__(self)
        BTree.keys(self)
        BTree.items(self)
        BTree.values(self)
    """,
    "durus.storage": """
        Storage
        Storage.load(self, oid)
        Storage.begin(self)
        Storage.store(self, oid, record)
        Storage.end(self, handle_invalidations=None)
        Storage.sync(self)
        Storage.new_oid(self)
        Storage.close(self)
        Storage.get_packer(self)
        Storage.pack(self)
        Storage.bulk_load(self, oids)
        Storage.gen_oid_record(self, start_oid=None, batch_size=100)
        MemoryStorage()
        gen_referring_oid_record(storage, referred_oid)
        gen_oid_class(storage, *classes)
        get_census(storage)
        get_reference_index(storage)
    """,
    "durus.file_storage": """
        FileStorage(filename=None, readonly=False, repair=False)
        FileStorage.get_filename(self)
        TempFileStorage()
    """,
    "durus.file_storage2": """
        FileStorage2(file=None, readonly=False, repair=False)
        FileStorage2.get_filename(self)
    """,
    "durus.sqlite_storage": """
        SqliteStorage(filename, readonly=False, repair=False)
        SqliteStorage.get_filename(self)
    """,
    "durus.client_storage": """
        ClientStorage(host="127.0.0.1", port=2972, address=None)
    """,
    "durus.storage_server": """
        StorageServer(storage, host="127.0.0.1", port=2972, address=None, gcbytes=0)
        StorageServer.serve(self)
        wait_for_server(host="127.0.0.1", port=2972, maxtries=300, sleeptime=2, address=None)
        SocketAddress
        SocketAddress.new(address)
        HostPortAddress(host="127.0.0.1", port=2972)
        UnixDomainSocketAddress(filename, owner=None, group=None, umask=None)
        UnixAbstractAddress(filename)
        HostPortAddress.get_connected_socket(self)
        SocketAddress.get_listening_socket(self)
        DEFAULT_HOST = "127.0.0.1"
        DEFAULT_PORT = 2972
        DEFAULT_GCBYTES = 0
        STATUS_OKAY = b"O"
        STATUS_KEYERROR = b"K"
        STATUS_INVALID = b"I"
    """,
    "durus.error": """
        DurusError
        DurusKeyError
        ConflictError(oids=None)
        WriteConflictError(oids=None)
        ReadConflictError(oids=None)
        ProtocolError
    """,
    "durus.serialize": """
        pack_record(oid, data, refs)
        unpack_record(record)
        split_oids(s)
        extract_class_name(record)
    """,
    "durus.utils": """
        int8_to_str(n)
        str_to_int8(s)
        int4_to_str(v)
        str_to_int4(v)
        as_bytes(s)
        join_bytes(iterable_of_bytes, /)
        ShortRead
        read(f, n)
        write(f, s)
        write_all(f, *args)
        read_int4(f)
        write_int4(f, n)
        read_int4_str(f)
        write_int4_str(f, s)
        read_int8(f)
        write_int8(f, n)
        read_int8_str(f)
        write_int8_str(f, s)
    """,
    "durus.logger": """
        logger
        log(level, msg, *args)
        is_logging(level)
        direct_output(file)
    """,
    "durus.__main__": """
        main()
        get_storage(file, storage_class=None, **kwargs)
        get_storage_class(file)
        start_durus(logfile, logginglevel, address, storage, gcbytes)
        stop_durus(address)
    """,
}
ALL = [(module, line.strip()) for module, lines in NAMES.items() for line in lines.strip().splitlines()]
TAKES_MORE_FORMS = {"BTree(node_constructor=BNode16)"}
"""What is called in 4.3's ways and in others, which one signature does not tell: test_mapping_sources.py calls them."""


def look_up(module: ModuleType, dotted: str) -> object:
    found: object = module
    for name in dotted.split("."):
        found = getattr(found, name)
    return found


def parameters(text: str, module: ModuleType) -> list[inspect.Parameter]:
    """Return the parameters that are written between the parentheses of `text`."""
    made = eval(f"lambda {text[text.index('(') + 1 : -1]}: None", dict(vars(module)))
    return list(inspect.signature(made).parameters.values())


@pytest.mark.parametrize(("module_name", "line"), ALL, ids=[f"{module}-{line}" for module, line in ALL])
def test_name_is_there_with_its_parameters(module_name: str, line: str) -> None:
    module = importlib.import_module(module_name)
    if " = " in line:
        name, value = line.split(" = ")
        assert look_up(module, name) == eval(value)
        return
    found = look_up(module, line.split("(")[0])
    if "(" not in line:
        return
    assert callable(found)
    if line in TAKES_MORE_FORMS:
        return
    here = list(inspect.signature(found).parameters.values())
    expected = parameters(line, module)
    for ours, theirs in zip(here, expected, strict=False):
        assert (ours.name, ours.default) == (theirs.name, theirs.default)
        assert ours.kind == theirs.kind or (ours.name, ours.kind) == ("self", ours.POSITIONAL_ONLY)  # in a method of C
    assert len(here) >= len(expected)
    for more in here[len(expected) :]:
        assert more.default is not inspect.Parameter.empty or more.kind in (more.VAR_KEYWORD, more.KEYWORD_ONLY)


# Numbers and streams


def test_numbers_are_written_and_read_back() -> None:
    stream = io.BytesIO()
    utils.write_int4(stream, 5)
    utils.write_int8(stream, 7)
    utils.write_int4_str(stream, b"abc")
    utils.write_int8_str(stream, b"xyz")
    utils.write(stream, b"q")
    utils.write_all(stream, b"a", b"b")
    written = stream.getvalue()
    assert written == struct.pack(">IQI3sQ3s", 5, 7, 3, b"abc", 3, b"xyz") + b"qab"
    stream.seek(0)
    assert utils.read_int4(stream) == 5
    assert utils.read_int8(stream) == 7
    assert utils.read_int4_str(stream) == b"abc"
    assert utils.read_int8_str(stream) == b"xyz"
    assert utils.read(stream, 3) == b"qab"
    assert utils.str_to_int4(utils.int4_to_str(1 << 31)) == 1 << 31
    assert utils.str_to_int8(utils.int8_to_str(1 << 63)) == 1 << 63
    with pytest.raises(OverflowError):
        utils.int4_to_str(1 << 32)


def test_stream_that_ends_too_early_is_a_short_read() -> None:
    with pytest.raises(utils.ShortRead, match="the stream ended after 2 of 3 bytes") as caught:
        utils.read(io.BytesIO(b"ab"), 3)
    assert isinstance(caught.value, OSError)


def test_sockets_are_streams_too() -> None:
    here, there = socket.socketpair()
    with closing(here), closing(there):
        utils.write_int4_str(here, b"hello")
        assert utils.read_int4_str(there) == b"hello"
        here.shutdown(socket.SHUT_WR)
        with pytest.raises(utils.ShortRead):
            utils.read(there, 1)


def test_text_becomes_bytes_of_latin_1() -> None:
    assert utils.as_bytes("aé") == b"a\xe9"
    assert utils.as_bytes(b"a\xe9") == b"a\xe9"
    assert utils.join_bytes([b"a", b"b"]) == b"ab"


# The log


def test_log_goes_where_it_is_directed_and_standard_streams_stay(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = io.StringIO(), io.StringIO()
    before = durus_logger.logger.handlers[:]
    try:
        for file in (first, second):
            with pytest.deprecated_call(match="direct_output"):
                durus_logger.direct_output(file)
            durus_logger.log(logging.ERROR, "a line for %s", "one")
    finally:
        durus_logger.logger.handlers[:] = before
    assert first.getvalue() == second.getvalue() == "a line for one\n"
    print("shown")
    assert capsys.readouterr().out == "shown\n"


def test_level_of_the_log_is_told() -> None:
    with pytest.deprecated_call(match="isEnabledFor"):
        assert durus_logger.is_logging(logging.CRITICAL)


# Spellings that have a better one


@pytest.mark.parametrize("mapping", [PersistentDict({1: 2}), BTree()], ids=["PersistentDict", "BTree"])
def test_has_key_works_and_tells_of_the_operator(mapping: "PersistentDict[int, int] | BTree[int, int]") -> None:
    mapping[1] = 2
    with pytest.deprecated_call(match="operator `in`"):
        assert mapping.has_key(1)
    with pytest.deprecated_call(match="operator `in`"):
        assert not mapping.has_key(3)


# durus.__main__


def test_storage_is_made_for_a_file_by_its_format_or_by_name(tmp_path: Path) -> None:
    for storage_class in (FileStorage, FileStorage2, SqliteStorage):
        path = str(tmp_path / storage_class.__name__)
        name = f"{storage_class.__module__}.{storage_class.__name__}"
        with closing(get_storage(path, storage_class=name)) as storage:
            assert type(storage) is storage_class
        assert get_storage_class(path) is storage_class
        with closing(get_storage(path, readonly=False, repair=True)) as storage:
            assert type(storage) is storage_class
    assert get_storage_class(str(tmp_path / "new")) is FileStorage
    with closing(get_storage(None)) as storage:
        assert isinstance(storage, FileStorage)
        assert Path(storage.get_filename()).exists()
    with pytest.raises(ArgumentError, match=r"no\.such\.Class"):
        get_storage(None, storage_class="no.such.Class")


def test_server_is_started_and_stopped_by_a_program(short_path: Path) -> None:
    address, log = str(short_path / "socket"), short_path / "log"
    arguments = (str(log), logging.DEBUG, address, FileStorage(short_path / "f"), 0)
    server = threading.Thread(target=start_durus, args=arguments)
    server.start()
    wait_for_server(address=address, maxtries=300, sleeptime=0.1)
    with Connection(ClientStorage(address=address)) as connection:
        connection.get_root()["a"] = 1
        connection.commit()
    stop_durus(address)
    server.join()
    assert "committed 1 objects" in log.read_text()
    with pytest.raises(ServerUnreachableError):
        stop_durus(address)
    with Connection(short_path / "f") as connection:
        assert connection.get_root()["a"] == 1
