"""Where servers listen: which address is of which kind, and what is refused."""

import logging
import os
import socket
import stat
from math import inf, nan
from pathlib import Path

import pytest

from durus.error import AddressError, DurusError, ServerUnreachableError
from durus.sharing.address import (
    HostPortAddress,
    SocketAddress,
    TlsAddress,
    UnixAbstractAddress,
    UnixDomainSocketAddress,
)
from durus.sharing.inherited import InheritedAddress, inherited_address
from durus.sharing.reaching import connect, wait_for_server
from durus.storage import MemoryStorage
from durus.storage_server import StorageServer


def test_each_kind_of_address_is_known_by_its_form() -> None:
    assert isinstance(SocketAddress.new(("localhost", 2972)), HostPortAddress)
    assert isinstance(SocketAddress.new("@name"), UnixAbstractAddress)
    assert isinstance(SocketAddress.new("some/path"), UnixDomainSocketAddress)
    assert isinstance(SocketAddress.new(Path("some/path")), UnixDomainSocketAddress)
    address = HostPortAddress()
    assert SocketAddress.new(address) is address
    assert str(address) == "127.0.0.1:2972"
    assert str(HostPortAddress("::1", 5)) == "[::1]:5"
    assert str(SocketAddress.new("@name")) == "@name"
    assert str(SocketAddress.new(b"some/path")) == str(SocketAddress.new("some/path"))
    for wrong in (5, ("a", 1, 2), None, {"a": 1, "b": 2}, "", "@", "localhost:2972"):
        with pytest.raises(AddressError, match="is not an address"):
            SocketAddress.new(wrong)  # type: ignore[arg-type]  # that is the point
    for host, port in (("a", "2972"), ("a", None), ("a", True), ("a", 1.5), ("a", -1)):
        with pytest.raises(AddressError, match="is not a port"):
            SocketAddress.new((host, port))  # type: ignore[arg-type]  # that is the point
    for no_host in (None, 5, b"a"):
        with pytest.raises(AddressError, match="is not a host"):
            SocketAddress.new((no_host, 1))  # type: ignore[arg-type]  # that is the point


def test_the_name_of_a_socket_may_look_like_a_host_and_a_port(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(short_path)
    address = SocketAddress.new("./a:1")
    listening = address.get_listening_socket()
    connect(SocketAddress.new("a:1"), timeout=5).close()
    address.close(listening)


def test_a_port_is_listened_on_by_one_at_a_time() -> None:
    address = HostPortAddress("127.0.0.1", 0)
    with address.get_listening_socket() as listening:
        assert address.port != 0
        with connect(address, timeout=5) as connected:
            assert connected.getpeername() == listening.getsockname()
        with pytest.raises(AddressError, match=f"cannot listen on 127.0.0.1:{address.port}: Address already in use"):
            HostPortAddress("127.0.0.1", address.port).get_listening_socket()


@pytest.mark.parametrize(
    "address",
    [("no such host.invalid", 1), "a" * 200, "no/such/folder/socket", "a\0b", "a\ud800", ("a\0b", 1)],
    ids=["host", "length", "folder", "NUL", "surrogate", "NUL in a host"],
)
def test_what_can_not_be_listened_on_is_told(address: str | tuple[str, int]) -> None:
    with pytest.raises(AddressError, match="cannot listen on"):
        SocketAddress.new(address).get_listening_socket()
    with pytest.raises(AddressError, match="from 0 to 65535"):
        SocketAddress.new(("127.0.0.1", 70000))


def test_a_server_that_is_not_there(short_path: Path) -> None:
    for address in (str(short_path / "socket"), "@no server has this name"):
        assert SocketAddress.new(address).get_connected_socket() is None
        with pytest.raises(ServerUnreachableError, match="no server listens on"):
            connect(SocketAddress.new(address), timeout=1)
        with pytest.raises(ServerUnreachableError, match="after 2 tries"):
            wait_for_server(maxtries=2, sleeptime=0, address=address)


def test_the_socket_of_a_server_that_is_gone_is_replaced_and_no_other(short_path: Path) -> None:
    path = short_path / "socket"
    UnixDomainSocketAddress(str(path)).get_listening_socket().close()  # without taking the name away
    address = UnixDomainSocketAddress(str(path))
    listening = address.get_listening_socket()
    with pytest.raises(AddressError, match="another server listens on it"):
        UnixDomainSocketAddress(str(path)).get_listening_socket()
    wait_for_server(address=str(path), maxtries=1)
    path.rename(short_path / "moved")
    path.write_text("something else")
    with pytest.raises(AddressError, match="not a socket"):
        UnixDomainSocketAddress(str(path)).get_listening_socket()
    address.close(listening)
    assert path.read_text() == "something else"


def test_a_unix_socket_has_the_rights_that_were_asked_for(short_path: Path) -> None:
    path = short_path / "socket"
    before = os.umask(0o022)
    address = UnixDomainSocketAddress(str(path), owner=os.getuid(), group=os.getgid(), umask=0o077)
    listening = address.get_listening_socket()
    assert os.umask(before) == 0o022
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    address.close(listening)
    assert not path.exists()
    for umask in (-1, "077"):
        with pytest.raises(AddressError, match="not a umask"):
            UnixDomainSocketAddress(str(path), umask=umask)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(AddressError, match="uid"):
        UnixDomainSocketAddress(str(path), owner=3.5).get_listening_socket()  # type: ignore[arg-type]  # so is this
    with pytest.raises(AddressError, match="no such user"):
        UnixDomainSocketAddress(str(path), owner="nobody of this name").get_listening_socket()
    assert not path.exists()


def test_the_sockets_of_a_service_manager_are_for_the_process_that_it_names() -> None:
    me = str(os.getpid())
    assert inherited_address({}) is None
    assert inherited_address({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    assert isinstance(inherited_address({"LISTEN_PID": me, "LISTEN_FDS": "1"}), InheritedAddress)
    with pytest.raises(AddressError, match="LISTEN_FDS"):
        inherited_address({"LISTEN_PID": me, "LISTEN_FDS": "none"})


@pytest.mark.spec("WIRE-2")
@pytest.mark.parametrize(("host", "is_local"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_inherited_sockets_are_looked_at(host: str, is_local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((host, 0)) as opened:
        monkeypatch.setattr("durus.sharing.inherited._FIRST_SYSTEMD_DESCRIPTOR", os.dup(opened.fileno()))
        address = InheritedAddress(1)
        address.close(address.get_listening_socket())
        assert address.is_local is is_local


@pytest.mark.parametrize(
    "arguments",
    [
        {"gcbytes": -1},
        {"gcinterval": -1.0},
        {"commit_timeout": 0.0},
        {"stall_timeout": -1.0},
        {"gcinterval": nan},
        {"gcinterval": inf},
        {"commit_timeout": inf},
        {"stall_timeout": 4_000_001},
        {"gcbytes": "5"},
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(DurusError, match="must"):
        StorageServer(MemoryStorage(), **arguments)  # type: ignore[arg-type]  # mypy can't tell which is which


@pytest.mark.spec("WIRE-2")
@pytest.mark.parametrize(("host", "is_warned_of"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_listening_beyond_loopback_is_warned_of(
    host: str, is_warned_of: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = StorageServer(MemoryStorage(), host, 0)
    server.listen()
    server.stop()
    server.serve()
    warned = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert [("no authentication" in message) for message in warned] == [True] * is_warned_of


@pytest.mark.spec("WIRE2-7")
def test_a_client_compresses_by_default_only_from_another_machine_and_without_tls() -> None:
    class Connected(socket.socket):
        peer = ("192.0.2.1", 2972)

        def getpeername(self) -> tuple[str, int]:
            return self.peer

        def getsockname(self) -> tuple[str, int]:
            return ("192.0.2.2", 40_000)

    with Connected() as connected:
        assert HostPortAddress("a", 1).compresses(connected)
        assert not TlsAddress("a", 1).compresses(connected)
        assert not SocketAddress.new("/socket").compresses(connected)
        connected.peer = ("192.0.2.2", 2972)
        assert not HostPortAddress("a", 1).compresses(connected)
