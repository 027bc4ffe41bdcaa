"""Who may do what on a server: the role of each peer, and what each role may ask for."""

import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import AddressError, ArgumentError, DisconnectedError, NotAllowedError
from durus.oid import ROOT_OID
from durus.records.record import pack_record
from durus.serving.peer import peer_of, peer_of_xucred
from durus.sharing import address as addresses
from durus.sharing import protocol, protocol2
from durus.sharing.address import UnixDomainSocketAddress
from durus.sharing.roles import Access, MayStop, Peer, Role
from durus.sharing.unix_sockets import number_of_user
from durus.storage import MemoryStorage
from tests.in_memory_server import InMemoryServer

ME = os.geteuid()
OTHER, GROUP = 54321, 65432
READ, WRITE, ADMIN = Role


def commit(client: ClientStorage) -> None:
    client.begin()
    client.store(ROOT_OID, pack_record(ROOT_OID, b"x", b""))
    client.end()


REQUESTS: dict[str, tuple[Role, Callable[[ClientStorage], object]]] = {
    "load": (READ, lambda client: client.load(ROOT_OID)),
    "bulk load": (READ, lambda client: list(client.bulk_load([ROOT_OID]))),
    "sync": (READ, lambda client: client.sync()),
    "ping": (READ, lambda client: client.ping()),
    "new oid": (WRITE, lambda client: client.new_oid()),
    "commit": (WRITE, commit),
    "pack": (ADMIN, lambda client: client.pack()),
    "stop": (ADMIN, lambda client: client.stop_server()),
}


@pytest.mark.spec("WIRE-50", "WIRE-51")
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("request_name", REQUESTS)
def test_each_role_may_do_what_it_may_do(request_name: str, role: Role, version: int) -> None:
    needed, ask = REQUESTS[request_name]
    storage = MemoryStorage()
    Connection(storage)
    before = storage.load(ROOT_OID)
    server = InMemoryServer(storage, protocol=version)
    client = server.new_client(protocol=version)
    (connection,) = server.connections
    connection.role = role
    if role >= needed:
        ask(client)
        assert not connection.refusals
        assert not isinstance(connection.error, NotAllowedError)
        return
    if version == 2:
        with pytest.raises(NotAllowedError, match=f"has the role {role.name.lower()}, and that needs"):
            ask(client)
        assert len(connection.refusals) == 1
        assert client.load(ROOT_OID), "the client can continue"
    elif request_name == "stop":
        ask(client)  # which can't tell why the connection was closed
    else:
        with pytest.raises(DisconnectedError):
            ask(client)
    if version == 1:
        assert isinstance(connection.error, NotAllowedError)
    assert server.packing is None
    assert server.new_client(protocol=version).load(ROOT_OID) == before, "the server continues"


V2 = protocol.encode_request(protocol.Version(2))
EACH_REQUEST: dict[type, tuple[Role, bytes]] = {
    **{type(asked): (role, protocol.encode_request(asked)) for role, asked in (
        (READ, protocol.Version(1)),
        (READ, protocol.Load(ROOT_OID)),
        (READ, protocol.BulkLoad([ROOT_OID])),
        (READ, protocol.Sync()),
        (READ, protocol.Goodbye()),
        (WRITE, protocol.NewOids(1)),
        (WRITE, protocol.Commit()),
        (ADMIN, protocol.Pack()),
        (ADMIN, protocol.Quit()),
    )},
    **{type(asked): (role, V2 + protocol2.encode_request(asked)) for role, asked in (
        (READ, protocol2.Options(1, 1, 0)),
        (READ, protocol2.Load([ROOT_OID], 0)),
        (READ, protocol2.LoadAhead([ROOT_OID], 0)),
        (READ, protocol2.Sync()),
        (READ, protocol2.TakeSnapshot()),
        (READ, protocol2.Release()),
        (READ, protocol2.Ping(b"")),
        (READ, protocol2.AskStatus()),
        (READ, protocol2.Follow(b"")),
        (READ, protocol2.Goodbye()),
        (READ, protocol2.Unknown(b"?")),
        (WRITE, protocol2.TakeTurn(True)),
        (WRITE, protocol2.NewOids(1)),
        (ADMIN, protocol2.Pack(False)),
        (ADMIN, protocol2.Quit()),
    )},
    protocol2.Commit: (WRITE, V2 + protocol2.encode_commit(0, [], [pack_record(ROOT_OID, b"x", b"")])),
}  # fmt: skip
"""Every request of both protocols: the role that it needs, and its bytes."""


def is_refused(data: bytes, role: Role) -> bool:
    """Return whether a client with this role is refused what it asks for."""
    storage = MemoryStorage()
    Connection(storage)
    server = InMemoryServer(storage)
    connection = server.connect()
    connection.role = role
    connection.sendall(data)
    return bool(connection.refusals) or isinstance(connection.error, NotAllowedError)


def test_no_request_is_missing() -> None:
    assert EACH_REQUEST.keys() == {*get_args(protocol.Request), *get_args(protocol2.Request)}


@pytest.mark.spec("WIRE-50", "WIRE-51")
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("asked", EACH_REQUEST, ids=lambda asked: f"{asked.__module__[-1]}-{asked.__name__}")
def test_each_role_is_refused_what_it_may_not_ask_for(asked: type, role: Role) -> None:
    needed, data = EACH_REQUEST[asked]
    assert is_refused(data, role) == (role < needed)


REQUESTS_OF: dict[str, tuple[type, ...]] = {
    "load objects, take a snapshot": (
        *(protocol.Load, protocol.BulkLoad, protocol.Sync, protocol2.Load, protocol2.Sync),
        *(protocol2.LoadAhead, protocol2.TakeSnapshot, protocol2.Release),
    ),
    "ask what the server does": (protocol2.AskStatus,),
    "copy the file": (protocol2.Follow,),
    "commit": (*(protocol.NewOids, protocol.Commit, protocol2.NewOids, protocol2.TakeTurn, protocol2.Commit),),
    "have the server pack": (protocol.Pack, protocol2.Pack),
    "stop the server": (protocol.Quit, protocol2.Quit),
}
"""What the rows of the table in the documentation stand for."""
OF_A_CONNECTION = {
    *(protocol.Version, protocol.Goodbye, protocol2.Options, protocol2.Ping, protocol2.Goodbye, protocol2.Unknown),
}


def table_of(first: str) -> dict[tuple[str, str], str]:
    """Return the cells of a table in the documentation, by row and column; its first cell is `first`."""
    text = (Path(__file__).parents[2] / "docs/howto/security.md").read_text("utf-8")
    lines = text[text.index(f"| {first} |") :].partition("\n\n")[0].split("\n")
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {(row[0], column): cell for row in rows for column, cell in zip(head[1:], row[1:], strict=True)}


WHAT_ROLES_MAY = table_of("may")
WHO_HAS_WHICH_ROLE = table_of("who connects")


def test_the_table_of_what_roles_may_is_complete() -> None:
    assert {row for row, _ in WHAT_ROLES_MAY} == REQUESTS_OF.keys()
    assert {column for _, column in WHAT_ROLES_MAY} == {f"`{role.name.lower()}`" for role in Role}
    assert len(WHAT_ROLES_MAY) == len(REQUESTS_OF) * len(Role)
    assert {*OF_A_CONNECTION, *(each for row in REQUESTS_OF.values() for each in row)} == EACH_REQUEST.keys()


@pytest.mark.spec("WIRE-50", "WIRE-51")
@pytest.mark.parametrize(("row", "column"), WHAT_ROLES_MAY)
def test_each_cell_of_what_roles_may_is_true(row: str, column: str) -> None:
    told = {is_refused(EACH_REQUEST[asked][1], Role[column.strip("`").upper()]) for asked in REQUESTS_OF[row]}
    assert told == {{"yes": False, "no": True}[WHAT_ROLES_MAY[row, column]]}


@pytest.mark.spec("WIRE-51")
def test_a_reader_can_read_objects_and_learns_why_a_commit_is_refused() -> None:
    storage = MemoryStorage()
    Connection(storage)
    server = InMemoryServer(storage)
    connection = Connection(server.new_client())
    server.connections[0].role = READ
    root = connection.get_root()
    root["n"] = 1
    with pytest.raises(NotAllowedError, match="may not store objects"):
        connection.commit()
    connection.abort()
    assert dict(root) == {}


def unix(user: int | None, *groups: int) -> Peer:
    return Peer("peer", is_unix=True, user=user, groups=frozenset(groups))


LOOPBACK = Peer("peer", is_unix=False, is_loopback=True)
ELSEWHERE = Peer("peer", is_unix=False)
NAMED = Peer("peer", is_unix=False, is_loopback=True, names=frozenset({"DNS:a"}))
MAY_STOP: tuple[MayStop, ...] = get_args(MayStop)
ROLES_OF: list[tuple[Peer, MayStop, Role]] = [
    (unix(ME), "local", ADMIN),
    (unix(ME), "user", ADMIN),
    (unix(0), "user", ADMIN),
    (unix(OTHER), "local", WRITE),
    (unix(OTHER), "user", WRITE),
    (unix(OTHER), "anyone", ADMIN),
    (unix(None), "local", WRITE),
    (LOOPBACK, "local", ADMIN),
    (LOOPBACK, "user", WRITE),
    (LOOPBACK, "anyone", ADMIN),
    (ELSEWHERE, "local", WRITE),
    (ELSEWHERE, "user", WRITE),
    (ELSEWHERE, "anyone", ADMIN),
]


@pytest.mark.spec("WIRE-52")
@pytest.mark.parametrize(("peer", "may_stop", "role"), ROLES_OF)
def test_without_a_list_the_setting_tells_who_may_stop(peer: Peer, may_stop: MayStop, role: Role) -> None:
    assert Access(may_stop=may_stop).role_of(peer) == role


@pytest.mark.spec("WIRE-53")
@pytest.mark.parametrize("listed", Role)
@pytest.mark.parametrize("may_stop", ["user", "local", "anyone"])
def test_a_list_refuses_all_others(listed: Role, may_stop: MayStop) -> None:
    given = ADMIN if (may_stop, listed) == ("anyone", WRITE) else listed
    for access in Access({OTHER: listed}, may_stop=may_stop), Access({}, {GROUP: listed}, may_stop=may_stop):
        assert access.role_of(unix(OTHER, GROUP)) == given
        for stranger in (unix(OTHER + 1), unix(OTHER + 1, GROUP + 1), unix(None), LOOPBACK, ELSEWHERE):
            assert access.role_of(stranger) is None
        assert access.role_of(unix(ME)) == access.role_of(unix(0)) == ADMIN
    assert Access({OTHER: READ}, {GROUP: ADMIN}).role_of(unix(OTHER, GROUP)) == ADMIN


def access(may_stop: MayStop, listed: Role | None = None) -> Access:
    return Access({OTHER: listed} if listed else {}, may_stop=may_stop)


WHO: dict[str, Callable[[MayStop], list[Role | None]]] = {
    "the user of the server or root, on a Unix socket": lambda may: [
        access(may, listed).role_of(unix(user)) for listed in (None, READ) for user in (ME, 0)
    ],
    "another user on a Unix socket": lambda may: [access(may).role_of(unix(OTHER))],
    "a client on loopback": lambda may: [access(may).role_of(LOOPBACK)],
    "a client on another machine": lambda may: [access(may).role_of(ELSEWHERE)],
    **{
        f"someone in a list as `{role.name.lower()}`": lambda may, role=role: [  # type: ignore[misc]  # a default
            access(may, role).role_of(unix(OTHER)),
            Access({}, {GROUP: role}, may).role_of(unix(OTHER, GROUP)),
            Access(may_stop=may).role_of(NAMED, {"DNS:a": role}),
        ]
        for role in Role
    },
    "anyone else, if there is a list": lambda may: [
        *(access(may, ADMIN).role_of(peer) for peer in (unix(OTHER + 1), LOOPBACK, ELSEWHERE)),
        Access(may_stop=may).role_of(NAMED, {"DNS:b": ADMIN}),
    ],
}
"""The roles of those whom the rows of the table in the documentation name."""


def test_the_table_of_who_has_which_role_is_complete() -> None:
    assert {row for row, _ in WHO_HAS_WHICH_ROLE} == WHO.keys()
    assert {column.split("`")[1] for _, column in WHO_HAS_WHICH_ROLE} == {f"--may-stop {may}" for may in MAY_STOP}
    assert len(WHO_HAS_WHICH_ROLE) == len(WHO) * len(MAY_STOP)


@pytest.mark.spec("WIRE-52", "WIRE-53", "TLS-5")
@pytest.mark.parametrize(("row", "column"), WHO_HAS_WHICH_ROLE)
def test_each_cell_of_who_has_which_role_is_true(row: str, column: str) -> None:
    (may_stop,) = (may for may in MAY_STOP if f"`--may-stop {may}`" in column)
    cell = WHO_HAS_WHICH_ROLE[row, column]
    assert set(WHO[row](may_stop)) == {None if cell == "nobody" else Role[cell.upper()]}


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ArgumentError, match="'user', 'local' or 'anyone'"):
        Access(may_stop="nobody")  # type: ignore[arg-type]


# Who is on the other side


@pytest.mark.spec("WIRE-53")
def test_the_kernel_tells_who_is_on_a_unix_socket() -> None:
    one, other = socket.socketpair()
    with one, other:
        peer = peer_of(one, "")
    assert (peer.is_unix, peer.user) == (True, ME)
    assert os.getegid() in peer.groups
    assert peer.groups >= set(os.getgroups())
    assert str(ME) in peer.name


@pytest.mark.spec("WIRE-53")
def test_what_bsd_and_macos_tell_is_understood() -> None:
    peer = peer_of_xucred(struct.pack("IIh16I", 0, 501, 2, 20, 12, *[0] * 14))
    assert peer.user == 501
    assert peer.groups == frozenset({20, 12})


@pytest.mark.spec("WIRE-52")
@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        (("127.0.0.1", 5), True),
        (("127.9.9.9", 5), True),
        (("::1", 5, 0, 0), True),
        (("::ffff:127.0.0.1", 5, 0, 0), True),
        (("::ffff:10.0.0.1", 5, 0, 0), False),
        (("10.0.0.1", 5), False),
        (("fe80::1%eth0", 5, 0, 2), False),
        (None, False),
    ],
)
def test_loopback_is_told_by_the_address(address: object, is_loopback: bool) -> None:
    with socket.socket(socket.AF_INET) as connected:
        peer = peer_of(connected, address)
    assert (peer.is_unix, peer.is_loopback, peer.user) == (False, is_loopback, None)


# Unix sockets


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.spec("WIRE-54")
@pytest.mark.parametrize("umask", [None, 0o077, 0o007, 0])
def test_nobody_can_connect_before_a_socket_has_its_owner(
    umask: int | None, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = short_path / "socket"
    seen: list[int] = []
    chown = os.chown

    def spy(name: str, user: int, group: int) -> None:
        seen.append(mode_of(path))
        chown(name, user, group)

    monkeypatch.setattr(os, "chown", spy)
    before = os.umask(0o022)
    try:
        address = UnixDomainSocketAddress(str(path), owner=ME, group=os.getegid(), umask=umask)
        listening = address.get_listening_socket()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert [mode & 0o222 for mode in seen] == [0]
    assert mode_of(path) == 0o777 & ~(0o022 if umask is None else umask)
    address.close(listening)
    assert not path.exists()


@pytest.mark.spec("WIRE-54")
@pytest.mark.parametrize("has_o_path", [True, False])
def test_what_another_process_lays_in_the_place_of_a_socket_is_left_as_it_is(
    has_o_path: bool, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, secret = short_path / "socket", short_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    if not has_o_path:
        monkeypatch.delattr(os, "O_PATH", raising=False)

    def lay_link(owner: str | int | None) -> int:
        path.unlink()
        path.symlink_to(secret)
        return number_of_user(owner)

    monkeypatch.setattr(addresses, "number_of_user", lay_link)
    with pytest.raises(AddressError):
        UnixDomainSocketAddress(str(path), owner=ME, umask=0).get_listening_socket()
    assert mode_of(secret) == 0o600
    assert path.is_symlink()


@pytest.mark.spec("WIRE-54")
def test_a_folder_that_others_can_write_to_is_a_risk(short_path: Path) -> None:
    for mode, words in ((0o700, None), (0o750, None), (0o777, "at any time"), (0o1777, "while no server runs here")):
        folder = short_path / oct(mode)
        folder.mkdir()
        folder.chmod(mode)
        address = UnixDomainSocketAddress(str(folder / "socket"))
        address.close(address.get_listening_socket())
        assert (address.risk is None) if words is None else (words in str(address.risk))
