"""What a server counts, and how it says that to clients."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.cli.main import main
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ConflictError, DisconnectedError, DurusError, ProtocolError
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.persistent_dict import PersistentDict
from durus.serving.counts import BOUNDS, MAX_CONFLICTING_OIDS, Conflicts, Counts, Histogram
from durus.serving.status import MAX_CLIENTS_SHOWN
from durus.sharing import protocol2 as messages
from durus.sharing.address import SocketAddress
from durus.sharing.protocol import encode_u32
from durus.sharing.protocol2 import Hello, encode, encode_hello
from durus.sharing.roles import Role
from durus.storage import MemoryStorage
from durus.storage_server import StorageServer
from tests.in_memory_server import InMemoryServer
from tests.threaded_server import serving

times = st.floats(0, 1000)
NewClient = Callable[..., ClientStorage]


# Counting


@pytest.mark.spec("WIRE2-35")
@given(st.lists(times, min_size=1), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_off_by_a_factor_of_2_at_most(noted: list[float], share: float) -> None:
    histogram = Histogram()
    for each in noted:
        histogram.note(each)
    found = histogram.quantile(share)
    assert found is not None
    real = sorted(noted)[max(0, -int(-share * len(noted) // 1) - 1)]
    if BOUNDS[0] <= real <= BOUNDS[-1]:
        assert real / 2 <= found <= real * 2
    assert found <= max(noted)
    assert histogram.count == len(noted)


@given(st.lists(times), st.lists(times))
def test_what_came_after_a_copy_is_told_apart(before: list[float], after: list[float]) -> None:
    histogram, alone = Histogram(), Histogram()
    for each in before:
        histogram.note(each)
    earlier = histogram.copy()
    for each in after:
        histogram.note(each)
        alone.note(each)
    found = histogram.since(earlier)
    assert found.buckets == alone.buckets
    assert found.total == pytest.approx(alone.total)
    assert found.longest >= alone.longest
    assert earlier.count == len(before), "the copy stays as it was"


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert Histogram().as_json() == {"count": 0, "p50": None, "p90": None, "p99": None, "max": None}


@pytest.mark.spec("WIRE2-36")
@given(st.lists(st.integers(0, 500), max_size=400))
def test_a_table_of_conflicts_is_bounded_and_has_the_frequent_ones(numbers: list[int]) -> None:
    conflicts = Conflicts()
    for number in [7] * (len(numbers) // MAX_CONFLICTING_OIDS + 1) + numbers:
        conflicts.note([oid_from_int(number)])
    found = conflicts.most_frequent()
    assert len(found) <= MAX_CONFLICTING_OIDS
    assert sum(number for _, number in found) == len(numbers) + len(numbers) // MAX_CONFLICTING_OIDS + 1
    assert oid_from_int(7) in dict(found)


@pytest.mark.spec("WIRE2-36")
def test_only_some_oids_of_a_conflict_are_noted() -> None:
    counts = Counts(0)
    counts.note_conflict(map(oid_from_int, range(1000)))
    assert counts.conflicts == 1
    assert len(counts.conflicting.most_frequent()) == 8


def test_a_pack_that_failed_has_freed_nothing() -> None:
    counts = Counts(0)
    counts.note_pack(5, 3, 100, 40, None)
    assert counts.last_pack == (5, 2, 60, None)
    counts.note_pack(5, 3, 100, 200, DurusError("the disk is full"))
    assert counts.last_pack == (5, 2, None, "the disk is full")
    counts.note_pack(5, 3, None, None, None)
    assert counts.last_pack == (5, 2, None, None)


# The request


@pytest.mark.spec("WIRE2-34")
@pytest.mark.parametrize("role", Role)
def test_a_client_of_each_role_may_ask(role: Role) -> None:
    server = InMemoryServer(MemoryStorage())
    client = server.new_client()
    server.connections[0].role = role
    assert client.server_status() == {"answers": "this test"}
    client.ping()
    assert not server.connections[0].refusals


@pytest.mark.spec("WIRE2-34")
def test_an_earlier_server_can_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    client = InMemoryServer(MemoryStorage(), protocol=1).new_client()
    with pytest.raises(ProtocolError, match="the server can't tell what it does: it runs an earlier version"):
        client.server_status()
    client.ping()
    monkeypatch.delitem(messages._WITHOUT_BODY, b"I")
    client = InMemoryServer(MemoryStorage()).new_client()
    with pytest.raises(ProtocolError, match="the server can't tell what it does: it runs an earlier version"):
        client.server_status()
    client.ping()


class Answering:
    """A stream whose server answers everything with these bytes."""

    def __init__(self, body: bytes) -> None:
        self._data = encode_u32(2) + encode_hello(Hello()) + encode(b"I", body)

    def sendall(self, data: bytes) -> None:
        pass

    def recv(self, size: int) -> bytes:
        found, self._data = self._data[:size], self._data[size:]
        return found

    def close(self) -> None:
        pass


@pytest.mark.spec("WIRE2-34")
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"a": ' + b"9" * 5000])
def test_what_is_not_an_object_of_json_is_an_error(body: bytes) -> None:
    client = ClientStorage(stream=Answering(body))
    with pytest.raises(ProtocolError, match="what the server tells of itself is not"):
        client.server_status()
    with pytest.raises(DisconnectedError):
        client.ping()


# A server


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def address(folder: Path) -> Iterator[SocketAddress]:
    with serving(FileStorage(folder / "f.durus"), folder / "s") as where:
        yield where


@pytest.fixture
def new_client(address: SocketAddress) -> Iterator[NewClient]:
    """Make a client of the server, which is closed at the end."""
    made: list[ClientStorage] = []

    def new(protocol: int = 2) -> ClientStorage:
        made.append(ClientStorage(address=address, protocol=protocol))
        return made[-1]

    yield new
    for client in made:
        client.close()


def status_of(address: SocketAddress) -> dict[str, object]:
    client = ClientStorage(address=address)
    try:
        return client.server_status()
    finally:
        client.close()


def part(status: object, *keys: str) -> dict[str, object]:
    for key in keys:
        assert isinstance(status, dict)
        status = status[key]
    assert isinstance(status, dict)
    return status


@pytest.mark.spec("WIRE2-35")
def test_a_server_tells_what_it_serves_and_what_was_done(
    address: SocketAddress, new_client: NewClient, folder: Path
) -> None:
    before = status_of(address)
    assert before["file"] == str(folder / "f.durus")
    assert before["address"] == str(address)
    assert before["process"] == os.getpid()
    assert part(before, "commits") == {"count": 0, "objects": 0, "bytes": 0, "seconds": Histogram().as_json()}
    one, other = Connection(new_client()), Connection(new_client())
    one.get_root()["a"] = PersistentDict()
    one.commit()
    other.abort()
    other.get_root()["b"] = 1
    one.get_root()["b"] = 2
    one.commit()
    with pytest.raises(ConflictError):
        other.commit()
    one.get_storage().load(oid_from_int(0))
    status = status_of(address)
    assert part(status, "commits")["count"] == 3  # the first has made the root
    assert part(status, "commits")["objects"] == 4
    assert part(status, "commits", "seconds")["count"] == 3
    assert part(status, "writes")["failed"] == 0
    assert part(status, "writes", "seconds")["count"] == 3
    name = "durus.persistent_dict.PersistentDict"
    assert part(status, "conflicts") == {
        "count": 1,
        "given_up": 0,
        "oids": [{"oid": 0, "class": name, "count": 1}],
        "classes": [{"name": name, "count": 1}],
    }
    assert status["size"] == os.path.getsize(folder / "f.durus")
    assert isinstance(status["garbage"], int)
    assert 2 * 50 < status["garbage"] < status["size"]  # newer states of the root have replaced two
    assert isinstance(status["loads"], int)
    assert status["loads"] > 0
    assert isinstance(status["received"], int)
    assert isinstance(status["sent"], int)
    assert status["received"] > 200
    assert status["sent"] > 200
    assert status["connections"] == 4
    assert part(status, "clients")["count"] == 3


@pytest.mark.spec("WIRE2-35")
def test_a_commit_that_a_client_gives_up_is_counted(address: SocketAddress, new_client: NewClient) -> None:
    one = Connection(new_client())
    other = Connection(new_client(1))
    other.get_root()["b"] = 1
    one.get_root()["b"] = 2
    one.commit()
    with pytest.raises(ConflictError):
        other.commit()
    assert part(status_of(address), "conflicts")["given_up"] == 1


@pytest.mark.spec("WIRE2-35")
def test_a_server_tells_when_its_file_was_copied(address: SocketAddress, new_client: NewClient) -> None:
    connection = Connection(new_client())
    connection.get_root()["n"] = 1
    connection.commit()
    assert part(status_of(address), "copies") == {"count": 0, "ago": None}
    client = new_client()
    head = client.ask_for_file(b"")
    assert len(client.read_file()) > 100
    copies = part(status_of(address), "copies")
    assert copies["count"] == 1
    assert isinstance(copies["ago"], float)
    client.ask_for_file(head.seal)  # nothing is new
    client.ping()
    assert part(status_of(address), "copies")["count"] == 2


@pytest.mark.spec("WIRE2-35")
def test_a_server_tells_of_its_last_pack(address: SocketAddress, new_client: NewClient) -> None:
    client = new_client()
    connection = Connection(client)
    for number in range(10):
        connection.get_root()["n"] = number
        connection.commit()
    before = part(status_of(address), "pack")
    assert before["running"] is False
    assert before["last"] is None
    assert isinstance(before["bytes_since"], int)
    assert before["bytes_since"] > 500
    client.pack(wait=True)
    after = part(status_of(address), "pack")
    assert after["bytes_since"] == 0
    last = part(after, "last")
    assert last["error"] is None
    assert isinstance(last["freed"], int)
    assert last["freed"] > 500


def doings(address: SocketAddress) -> list[object]:
    shown = part(status_of(address), "clients")["shown"]
    assert isinstance(shown, list)
    return [(client["doing"], client["snapshot"], client["role"]) for client in shown]


@pytest.mark.spec("WIRE2-35")
def test_a_server_tells_what_its_clients_do(address: SocketAddress, new_client: NewClient) -> None:
    turn, snapshot = new_client(), new_client()
    Connection(turn)
    turn.take_turn()
    snapshot.use_snapshots()
    snapshot.sync()
    begun = new_client()
    begun.send(encode(b"G", b"12345")[:-1])
    assert doings(address) == [
        ("has the turn to commit", False, "admin"),
        ("idle", True, "admin"),
        ("sends a request", False, "admin"),
        ("asks for this", False, "admin"),
    ]
    turn.release()
    assert doings(address)[0] == ("idle", False, "admin")


@pytest.mark.spec("WIRE2-36")
def test_only_some_clients_are_shown(address: SocketAddress, new_client: NewClient) -> None:
    for _ in range(MAX_CLIENTS_SHOWN + 5):
        new_client()
    found = part(status_of(address), "clients")
    assert found["count"] == MAX_CLIENTS_SHOWN + 6
    assert isinstance(found["shown"], list)
    assert len(found["shown"]) == MAX_CLIENTS_SHOWN


@pytest.mark.spec("WIRE2-36", "WIRE2-35")
def test_a_storage_without_a_file_has_no_size_and_strange_classes_no_effect() -> None:
    storage = MemoryStorage()
    Connection(storage)
    oids = [oid_from_int(number) for number in range(3)]
    storage.begin()
    for oid, data in zip(
        oids, [b"cx\n\x1b[2J\n.}.", b"\x80\x02cevil\x1b[2J\nSystem\nq\x00.}.", b"no pickle"], strict=True
    ):
        storage.store(oid, oid + len(data).to_bytes(4, "big") + data)
    storage.end()
    server = StorageServer(storage, port=0)
    server.counts.note_conflict([*oids, oid_from_int(99)])
    status = server.status()
    assert status["file"] is None
    assert status["size"] is None
    assert status["garbage"] is None
    assert json.dumps(status).isprintable()
    assert "\\u001b" not in json.dumps(status)
    assert part(status, "conflicts")["count"] == 1
    server.storage.close()


# The command


@pytest.mark.spec("CMD-22", "CMD-23", "CMD-24")
def test_the_command_shows_what_a_server_does(
    address: SocketAddress, new_client: NewClient, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = Connection(new_client())
    connection.get_root()["a"] = 1
    connection.commit()
    assert main(["status", "--address", str(address)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"listens on    {address}"
    assert lines[3].startswith("commits       2 of 2 objects, ")
    assert lines[5] == "conflicts     0"
    assert lines[7].startswith("pack          none since the server started; ")
    assert lines[8] == "copies        none of the file by a client since the server started"
    assert lines[9] == "clients       2, of 2 since it started"
    assert lines[-1].endswith(": asks for this")
    assert main(["status", f"durus+unix:{address}", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.keys() == status_of(address).keys()
    assert shown["commits"]["count"] == 2


@pytest.mark.spec("CMD-22")
def test_a_server_that_does_not_answer_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--address", str(folder / "nobody"), "--timeout", "0.01"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("durus: ")


@pytest.mark.spec("CMD-22")
@pytest.mark.parametrize("what", ["shop.durus", "", "postgresql://host/name", "http://host"])
def test_what_is_not_the_address_of_a_server_is_a_usage_error(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", what]) == 2
    assert "is not the address of a server" in capsys.readouterr().err


@pytest.mark.spec("CMD-23")
@pytest.mark.parametrize(
    ("status", "outcome", "expected"),
    [
        ({"commits": 1}, 1, "has 1 where an object must be"),
        ({"durus": "\x1b[2J"}, 1, "where an object must be"),
        (
            {
                **{key: {"seconds": {"count": "\x1b", "p50": []}, "count": None} for key in ("writes", "commits")},
                "durus": "\x1b[2J\n",
                "conflicts": {"classes": [{"name": "\x1b"}]},
                "clients": {"shown": [{"name": "\x1b"}, {"doing": {"\x1b": 1}, "seconds": "\x1b"}]},
                "pack": {"last": {"error": "\x1b\n"}},
            },
            0,
            r"durus \x1b[2J\n, process unknown",
        ),
        (
            {
                **{key: {"seconds": {}} for key in ("writes", "commits", "conflicts", "clients")},
                "pack": {"running": True},
            },
            0,
            "pack          in progress",
        ),
    ],
)
def test_a_hostile_status_is_shown_without_harm(
    status: dict[str, object],
    outcome: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    address: SocketAddress,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ClientStorage, "server_status", lambda self: status)
    assert main(["status", "--address", str(address)]) == outcome
    told = capsys.readouterr()
    assert expected in told.out + told.err
    assert all(line.isprintable() for line in (told.out + told.err).splitlines())
