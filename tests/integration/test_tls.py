"""Servers and clients with TLS on loopback: who is let in, what they may do, and what disturbs nobody else."""

import contextlib
import logging
import os
import random
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

import durus
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import (
    AddressError,
    ArgumentError,
    DisconnectedError,
    NotAllowedError,
    OutcomeUnknownError,
    ProtocolError,
    TlsError,
)
from durus.oid import ROOT_OID
from durus.records.record import pack_record
from durus.sharing.address import HostPortAddress, TlsAddress
from durus.sharing.protocol import Commit, Load, Pack, Quit, encode_commit, encode_request, encode_u32
from durus.sharing.roles import Access, MayStop, Role
from durus.sharing.tls import ALPN, NOT_TLS, ClientTls, ServerTls
from durus.sharing.tls_stream import TlsStream
from durus.storage import MemoryStorage
from durus.storage_server import StorageServer
from tests.certificates import Certificates, make_certificates
from tests.green_sockets import use_green_sockets
from tests.integration.serving import SECONDS, Server, is_closed, receive, serving
from tests.integration.stunnel import client_end, needs_stunnel, server_end

HELLOS = 3000
"""How many broken beginnings of TLS a server gets."""


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durus")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class Served:
    """A server in a thread of the test, and how to connect to it."""

    def __init__(self, certificates: Certificates, server: StorageServer) -> None:
        assert isinstance(server.address, HostPortAddress)
        self.certificates = certificates
        self.server = server
        self.port = server.address.port

    def address(self, client: str | None = None, ca: str = "ca", server_name: str = "localhost") -> TlsAddress:
        """Return the address for a client with this certificate."""
        made = self.certificates
        cert = None if client is None else made(client)
        return TlsAddress("127.0.0.1", self.port, tls_ca=made(ca), tls_cert=cert, tls_server_name=server_name)

    def connect(self, client: str | None = "admin", protocol: int | None = None) -> ClientStorage:
        return ClientStorage(address=self.address(client), protocol=protocol)

    def open_socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def raw_client(self, *protocols: str) -> ssl.SSLContext:
        """Return what a program needs that is not a client of Durus, but has a certificate."""
        context = ssl.create_default_context(cafile=self.certificates("ca"))
        context.load_cert_chain(self.certificates("admin"))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


@contextlib.contextmanager
def serving_tls(
    certificates: Certificates,
    *,
    has_ca: bool = True,
    has_roles: bool = True,
    cert: str = "server",
    may_stop: MayStop = "user",
    access: Access | None = None,
    stall_timeout: float = SECONDS,
    port: int = 0,
) -> Iterator[Served]:
    """Serve a database in memory that has a root."""
    ca = certificates("ca") if has_ca else None
    tls = ServerTls(certificates(cert), client_ca=ca, roles=certificates.roles if has_roles else None)
    storage = MemoryStorage()
    Connection(storage)
    access = access or Access(may_stop=may_stop)
    server = StorageServer(storage, "127.0.0.1", port, stall_timeout=stall_timeout, access=access, tls=tls)
    server.listen()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield Served(certificates, server)
    finally:
        server.stop()
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert not server._door._handshakes
    assert not server.clients


def load(client: ClientStorage) -> None:
    assert client.load(ROOT_OID)


def commit(client: ClientStorage, data: bytes = b"x") -> None:
    client.begin()
    client.store(ROOT_OID, pack_record(ROOT_OID, data, b""))
    client.end()


def is_served(served: Served) -> bool:
    """Return whether another client can commit and load. All that was sent before is handled then."""
    client = served.connect()
    commit(client, b"y")
    stored = client.load(ROOT_OID)
    client.close()
    return stored == pack_record(ROOT_OID, b"y", b"")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


REQUESTS: dict[str, tuple[Role, Callable[[ClientStorage], None]]] = {
    "load": (Role.READ, load),
    "commit": (Role.WRITE, commit),
    "pack": (Role.ADMIN, lambda client: client.pack()),
    "stop": (Role.ADMIN, lambda client: client.stop_server()),
}
ROLES = {"reader": Role.READ, "writer": Role.WRITE, "admin": Role.ADMIN}
REFUSED = {
    None: ("requires a certificate", "it has no certificate"),
    "stranger": ("unknown ca; .* must be valid now, and come from a CA", "its certificate is not accepted: .*issuer"),
    "expired": ("certificate expired", "certificate has expired; renew it, and compare the clocks"),
    "unnamed": ("perhaps its list of roles has no name", "the list of roles has no name .*: DNS:unnamed.example"),
}
"""Who may not connect: what the client is told, and what the server logs."""


def expect_role(role: Role, request_name: str, served: Served, client: ClientStorage) -> None:
    """Expect that a client can do what its role includes, and nothing else."""
    needed, ask = REQUESTS[request_name]
    if role >= needed:
        ask(client)
        client.close()
        if request_name == "stop":
            return
    elif client.protocol == 2:
        with pytest.raises(NotAllowedError, match=f"has the role {role.name.lower()}, and that needs"):
            ask(client)
        load(client)
        client.close()
    elif request_name == "stop":
        ask(client)  # which can't tell why the connection was closed
    else:
        with pytest.raises(DisconnectedError):
            ask(client)
    assert is_served(served)


@pytest.mark.spec("TLS-4", "TLS-5", "WIRE-50")
@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("who", ROLES)
def test_a_certificate_gives_its_role(who: str, request_name: str, protocol: int, certificates: Certificates) -> None:
    with serving_tls(certificates) as served:
        expect_role(ROLES[who], request_name, served, served.connect(who, protocol))


@pytest.mark.spec("TLS-4", "TLS-5", "TLS-9")
@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize("who", REFUSED)
def test_who_is_refused_is_told_and_logged(
    who: str | None, protocol: int, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    told, logged = REFUSED[who]
    with serving_tls(certificates) as served:
        for _ in range(10):  # whichever side is faster
            with pytest.raises(TlsError, match=rf"^cannot connect to durus\+tls://127.0.0.1:{served.port}: .*{told}"):
                served.connect(who, protocol)
        assert is_served(served)
    found = warnings(caplog)
    assert len(found) == 10
    for message in found:
        assert re.search(f"^client 127.0.0.1:[0-9]+ is refused: .*{logged}", message)


@pytest.mark.spec("TLS-4", "TLS-5")
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("who", REFUSED)
def test_nothing_that_is_sent_by_who_is_refused_is_done(
    who: str | None, request_name: str, certificates: Certificates
) -> None:
    with serving_tls(certificates) as served:
        context = ssl.create_default_context(cafile=certificates("ca"))
        context.set_alpn_protocols([ALPN])
        if who is not None:
            context.load_cert_chain(certificates(who))
        before = served.connect()
        serial = before.load(ROOT_OID)
        with (
            served.open_socket() as connected,
            contextlib.suppress(OSError),
            context.wrap_socket(connected, server_hostname="localhost") as tls,
        ):
            tls.sendall(REQUESTS_OF_1[request_name])
            assert not receive(tls, 1)
        assert before.load(ROOT_OID) == serial
        before.close()
        assert is_served(served)


REQUESTS_OF_1 = {
    "load": encode_request(Load(ROOT_OID)),
    "commit": encode_request(Commit()) + encode_commit([(ROOT_OID, pack_record(ROOT_OID, b"z", b""))]),
    "pack": encode_request(Pack()),
    "stop": encode_request(Quit()),
}


@pytest.mark.spec("TLS-7")
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("has_ca", [True, False])
@pytest.mark.parametrize("may_stop", ["user", "local", "anyone"])
def test_without_a_list_of_names_roles_are_as_without_tls(
    may_stop: MayStop, has_ca: bool, request_name: str, certificates: Certificates
) -> None:
    with serving_tls(certificates, has_ca=has_ca, has_roles=False, may_stop=may_stop) as served:
        client = served.connect("unnamed" if has_ca else None)
        expect_role(Role.WRITE if may_stop == "user" else Role.ADMIN, request_name, served, client)


@pytest.mark.spec("TLS-5", "WIRE-53")
def test_users_are_listed_for_unix_sockets_and_names_for_tcp(certificates: Certificates, tmp_path: Path) -> None:
    with serving_tls(certificates, access=Access({0: Role.ADMIN})) as served:
        load(client := served.connect("reader"))
        client.close()
        assert is_served(served)
    limited = serving_tls(certificates, has_roles=False, access=Access({0: Role.ADMIN}))
    with limited as served, served.open_socket() as connected:
        assert is_closed(connected), "before the handshake"


@pytest.mark.spec("TLS-1")
def test_a_unix_socket_is_without_tls(certificates: Certificates, short_path: Path) -> None:
    tls = ServerTls(certificates("server"), client_ca=certificates("ca"))
    server = StorageServer(MemoryStorage(), address=short_path / "s", tls=tls)
    server.listen()
    thread = threading.Thread(target=server.serve)
    thread.start()
    with Connection(ClientStorage(address=short_path / "s")) as connection:
        connection.get_root()["x"] = 1
        connection.commit()
    server.stop()
    thread.join(SECONDS)
    assert not thread.is_alive()


# The server, as its clients see it


@pytest.mark.spec("TLS-3")
@pytest.mark.parametrize(
    ("ca", "server_name", "words"),
    [
        ("ca", "wrong.example", "not valid for 'wrong.example'; give the name that it is for with tls_server_name"),
        ("ca", "127.0.0.2", "IP address mismatch.*; give the name"),
        ("other-ca", "localhost", "the certificate of the server is not accepted: .*; give the file .* with tls_ca"),
    ],
)
def test_a_server_that_is_another_one_is_refused(
    ca: str, server_name: str, words: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with serving_tls(certificates) as served:
        with pytest.raises(TlsError, match=words):
            ClientStorage(address=served.address("admin", ca, server_name))
        assert is_served(served)
    (message,) = warnings(caplog)
    assert "is refused: it does not accept the certificate of this server, or its TLS: " in message


@pytest.mark.spec("TLS-3")
def test_an_expired_server_is_refused(certificates: Certificates) -> None:
    expired = serving_tls(certificates, has_ca=False, has_roles=False, cert="expired")
    with expired as served, pytest.raises(TlsError, match="certificate has expired; renew it"):
        ClientStorage(address=served.address(server_name="reader.example"))


@pytest.mark.spec("TLS-3", "DB-1", "DB-2")
def test_the_name_of_a_server_is_the_host_and_its_ca_one_of_the_system(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_tls(certificates) as served:
        where = f"durus+tls://127.0.0.1:{served.port}"
        with pytest.raises(TlsError, match="give the file with the certificate of its CA with tls_ca"):
            durus.open(where, tls_cert=certificates("admin"))
        monkeypatch.setenv("SSL_CERT_FILE", certificates("ca"))
        with durus.open(where, tls_cert=certificates("admin")) as db:
            db.run(lambda root: root.update(x=1))
        with durus.open(f"{where}?tls_cert={certificates('reader')}&readonly=true") as db, db.snapshot() as root:
            assert root["x"] == 1
        with pytest.raises(ArgumentError, match="has no option 'tls_ca'"):
            durus.open(f"durus://127.0.0.1:{served.port}?tls_ca=a")


@pytest.mark.spec("TLS-2")
@pytest.mark.parametrize("protocols", [[], ["h2", "http/1.1"]])
def test_a_client_that_does_not_ask_for_durus_is_refused(
    protocols: list[str], certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with serving_tls(certificates) as served:
        context = served.raw_client(*protocols)
        with served.open_socket() as connected, context.wrap_socket(connected, server_hostname="localhost") as tls:
            assert is_closed(tls)
        assert is_served(served)
    assert [message.split(": ", 1)[1] for message in warnings(caplog)] == [
        "it speaks TLS, but not the protocol 'durus' of ALPN"
    ]


@pytest.mark.spec("TLS-1")
def test_an_earlier_version_of_tls_is_refused(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    with serving_tls(certificates) as served:
        context = served.raw_client("durus")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with served.open_socket() as connected, pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
            context.wrap_socket(connected, server_hostname="localhost")
        assert is_served(served)
    assert [message.split(": ", 1)[1] for message in warnings(caplog)] == ["it does not support TLS 1.3"]


@contextlib.contextmanager
def listening(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does this with its first connection; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as opened:

        def accept() -> None:
            connected, _ = opened.accept()
            connected.settimeout(SECONDS)
            with connected, contextlib.suppress(OSError):
                handle(connected)

        thread = threading.Thread(target=accept)
        thread.start()
        yield opened.getsockname()[1]
        thread.join(SECONDS)
        assert not thread.is_alive()


def other_server(certificates: Certificates, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates("server"))
    context.set_alpn_protocols(list(protocols))
    return context


def connect_to(port: int, certificates: Certificates, **options: float | None) -> ClientStorage:
    where = TlsAddress("127.0.0.1", port, tls_ca=certificates("ca"))
    return ClientStorage(address=where, **options)  # type: ignore[arg-type]  # timeouts only


@pytest.mark.spec("TLS-2")
def test_a_server_that_does_not_select_durus_is_refused(certificates: Certificates) -> None:
    def handle(connected: socket.socket) -> None:
        with other_server(certificates, "http/1.1").wrap_socket(connected, server_side=True) as tls:
            tls.recv(1)

    with (
        listening(handle) as port,
        pytest.raises(TlsError, match="the server speaks TLS, but not the protocol 'durus'"),
    ):
        connect_to(port, certificates)


@pytest.mark.spec("TLS-1")
def test_a_server_with_an_earlier_version_only_is_refused(certificates: Certificates) -> None:
    context = other_server(certificates, ALPN)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def handle(connected: socket.socket) -> None:
        context.wrap_socket(connected, server_side=True)

    with listening(handle) as port, pytest.raises(TlsError, match=r"the server does not support TLS 1\.3"):
        connect_to(port, certificates)


@pytest.mark.spec("TLS-8")
@pytest.mark.parametrize("answer", [b"", b"\x16\x03\x03\x00"])
def test_connecting_includes_the_handshake_in_its_time(answer: bytes, certificates: Certificates) -> None:
    def handle(connected: socket.socket) -> None:
        connected.sendall(answer)
        while connected.recv(1000):
            pass

    with listening(handle) as port, pytest.raises(AddressError, match=r"cannot connect to durus\+tls.*: timed out"):
        connect_to(port, certificates, connect_timeout=0.2)


@pytest.mark.spec("TLS-11", "WIRE-25")
def test_an_answer_that_does_not_come_in_time_ends_the_connection(certificates: Certificates) -> None:
    def handle(connected: socket.socket) -> None:
        with other_server(certificates, ALPN).wrap_socket(connected, server_side=True) as tls:
            while tls.recv(1000):
                pass

    with listening(handle) as port, pytest.raises(DisconnectedError, match="no answer came in time"):
        connect_to(port, certificates, timeout=0.2)


@pytest.mark.spec("TLS-11")
@pytest.mark.parametrize("is_orderly", [True, False])
def test_a_server_that_is_cut_off_may_not_have_stopped(is_orderly: bool, certificates: Certificates) -> None:
    def handle(connected: socket.socket) -> None:
        tls = other_server(certificates, ALPN).wrap_socket(connected, server_side=True)
        tls.recv(5)
        tls.sendall(encode_u32(1))
        tls.recv(1)
        if is_orderly:
            with contextlib.suppress(OSError):
                tls.settimeout(0)
                tls.unwrap()
        tls.close()

    with listening(handle) as port:
        client = ClientStorage(address=TlsAddress("127.0.0.1", port, tls_ca=certificates("ca")), protocol=1)
        if is_orderly:
            client.stop_server()
        else:
            with pytest.raises(DisconnectedError, match="was cut off, by the server or by the network"):
                client.stop_server()


# What is not TLS


@pytest.mark.spec("TLS-10", "TLS-9")
@pytest.mark.parametrize("protocol", [1, 2, None])
def test_a_client_without_tls_is_told(
    protocol: int | None, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with serving_tls(certificates) as served:
        with pytest.raises(ProtocolError, match=r"speaks TLS: connect to durus\+tls://"):
            ClientStorage(port=served.port, protocol=protocol)
        assert is_served(served)
    (message,) = warnings(caplog)
    assert message.endswith(r"it does not speak TLS: its first byte is b'V'; it must open durus+tls://...")


@pytest.mark.spec("TLS-10")
@pytest.mark.parametrize("first", [b"Q", b"P", b"GET / HTTP/1.1\r\n\r\n", b"\0", b"\x80\x2e\x01"])
def test_the_first_byte_tells_what_is_not_tls(first: bytes, certificates: Certificates) -> None:
    with serving_tls(certificates) as served:
        with served.open_socket() as connected:
            connected.sendall(first)
            assert receive(connected, 100) == NOT_TLS
        assert is_served(served)


@pytest.mark.spec("TLS-10")
def test_tls_to_a_server_without_it_is_told(certificates: Certificates, tmp_path: Path) -> None:
    with serving(folder=tmp_path) as server:
        with pytest.raises(TlsError, match=r"closes the connection instead of answering by TLS; durus://"):
            connect_to(server.port, certificates)
        server.log.expect(r"is disconnected: b'.x16' is not a command; it begins TLS, which this server does not")
        server.connect().close()
        assert server.log.text.count("WARNING") == 1


@pytest.mark.spec("TLS-9")
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\1", bytes(100)])
def test_an_answer_that_is_not_tls_is_told(answer: bytes, certificates: Certificates) -> None:
    def handle(connected: socket.socket) -> None:
        connected.recv(1000)
        connected.sendall(answer + bytes(5))
        connected.recv(1000)

    with listening(handle) as port, pytest.raises(TlsError, match="what answers there does not speak TLS"):
        connect_to(port, certificates)


@pytest.mark.spec("TLS-9")
def test_hostile_bytes_in_the_handshake_harm_nobody(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    hello = first_flight(certificates)
    random_source = random.Random(1)
    with serving_tls(certificates) as served:
        other = served.connect()
        for _ in range(HELLOS):
            with served.open_socket() as attacker:
                attacker.sendall(mutated(hello, random_source))
                attacker.shutdown(socket.SHUT_WR)
                while attacker_receives(attacker):
                    pass
        commit(other)
        load(other)
        other.close()
        assert is_served(served)
    for record in caplog.records:
        assert record.exc_info is None
        assert re.search(
            r"^client .* (is refused: |connected$|disconnected)|^listening|^stopped|^in \d+ s: ", record.getMessage()
        )


def first_flight(certificates: Certificates) -> bytes:
    """Return what a client sends first."""
    channel = ClientTls(certificates("ca")).new_channel("localhost")
    channel.shake_hands(b"")
    return channel.outgoing()


def mutated(hello: bytes, source: random.Random) -> bytes:
    """Return a beginning of TLS with some bytes changed, removed, repeated or added."""
    changed = bytearray(hello)
    for _ in range(source.randint(1, 4)):
        place = source.randrange(len(changed))
        match source.randrange(5):
            case 0:
                changed[place] = source.randrange(256)
            case 1:
                changed[place] ^= 1 << source.randrange(8)
            case 2:
                del changed[place : place + source.randint(1, 40)]
            case 3:
                changed[place:place] = changed[place : place + source.randint(1, 40)]
            case 4:
                changed[place : place + 2] = source.choice([b"\0\0", b"\xff\xff", b"\0\1", b"\x40\0"])
        changed = changed or bytearray(1)
    return bytes(changed) * source.choice([1, 1, 1, 2])


def attacker_receives(attacker: socket.socket) -> bytes:
    try:
        return attacker.recv(1 << 16)
    except ConnectionResetError:
        return b""


@pytest.mark.spec("TLS-8", "TLS-9")
def test_a_message_that_claims_to_be_long_is_refused_at_once(certificates: Certificates) -> None:
    with serving_tls(certificates) as served:
        for claimed in (1 << 20, (1 << 24) - 1):
            with served.open_socket() as attacker:
                attacker.sendall(b"\x16\3\1\x40\0" + b"\1" + claimed.to_bytes(3) + bytes((1 << 14) - 4))
                assert receive(attacker, 1) == b"\x15", "an alert"
        assert is_served(served)


@pytest.mark.spec("TLS-9")
@pytest.mark.parametrize("sent", [b"\x17\x03\x03\x00\x20" + bytes(32), b"V\0\0\0\2", b"\x15\x03\x03\x00\x02\x02\x50"])
def test_what_is_not_tls_after_the_handshake_ends_only_its_connection(
    sent: bytes, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with serving_tls(certificates) as served:
        client = served.connect()
        stream = client._stream
        assert isinstance(stream, TlsStream)
        stream._socket.sendall(sent)
        with pytest.raises(DisconnectedError):
            load(client)
        assert is_served(served)
    (message,) = warnings(caplog)
    assert re.search(r"^client 127.0.0.1:[0-9]+ \(URI:urn:shop:admin\) is disconnected: ", message)


class Forger:
    """A client that makes the records of TLS by itself, and so can send those that no library sends. RFC 8446."""

    KEY_UPDATE = b"\x18\0\0\1"
    """The message but for its last byte: 1 asks for an answer."""

    def __init__(self, served: Served, folder: Path) -> None:
        context = served.raw_client(ALPN)
        context.keylog_filename = str(folder / "keys")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        self.socket = served.open_socket()
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            self.socket.sendall(outgoing.read())
            incoming.write(self.socket.recv(1 << 16))
        self.socket.sendall(outgoing.read())
        (line,) = re.findall("CLIENT_TRAFFIC_SECRET_0 .*", (folder / "keys").read_text())
        self._secret = bytes.fromhex(line.split()[-1])
        self._hash: hashes.HashAlgorithm = hashes.SHA384() if len(self._secret) == 48 else hashes.SHA256()
        self._key_size = 32 if len(self._secret) == 48 else 16
        self._sent = 0

    def record(self, kind: int, content: bytes) -> bytes:
        """Return one record: kind 0x16 is the handshake, 0x17 application data."""
        nonce = int.from_bytes(self._expand(b"iv", 12)) ^ self._sent
        self._sent += 1
        header = b"\x17\3\3" + (len(content) + 17).to_bytes(2)
        key = AESGCM(self._expand(b"key", self._key_size))
        return header + key.encrypt(nonce.to_bytes(12), content + bytes([kind]), header)

    def key_update(self, asks: int) -> bytes:
        """Return the record with which the keys change."""
        made = self.record(0x16, self.KEY_UPDATE + bytes([asks]))
        self._secret, self._sent = self._expand(b"traffic upd", len(self._secret)), 0
        return made

    def _expand(self, label: bytes, size: int) -> bytes:
        name = b"tls13 " + label
        info = size.to_bytes(2) + bytes([len(name)]) + name + b"\0"
        return HKDFExpand(self._hash, size, info).derive(self._secret)


@pytest.mark.spec("TLS-9")
@pytest.mark.parametrize("asks", [0, 1])
def test_keys_may_change_as_often_as_a_client_likes(asks: int, certificates: Certificates, tmp_path: Path) -> None:
    with serving_tls(certificates) as served:
        forger = Forger(served, tmp_path)
        for _ in range(20):
            forger.socket.sendall(b"".join(forger.key_update(asks) for _ in range(100)))
            assert is_served(served)
        forger.socket.sendall(forger.record(0x17, b"S"))
        assert receive(forger.socket, 26) != b"", "an answer"
        forger.socket.close()
        assert is_served(served)


@pytest.mark.spec("TLS-9")
@pytest.mark.parametrize("half", [b"\x18", b"\x18\0\0\1"])
def test_half_a_message_of_tls_harms_only_its_client(
    half: bytes, certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server can then send nothing, when the answer to a commit is due."""
    with serving_tls(certificates) as served:
        other = served.connect()
        forger = Forger(served, tmp_path)
        forger.socket.sendall(forger.record(0x17, encode_request(Commit())))
        assert receive(forger.socket, 4 + 22)
        data = encode_commit([(ROOT_OID, pack_record(ROOT_OID, b"z", b""))])
        forger.socket.sendall(forger.record(0x17, data) + forger.record(0x16, half))
        attacker_receives(forger.socket)  # an answer, or the end
        forger.socket.close()
        other.sync()
        load(other)
        other.close()
        assert is_served(served)
    for message in warnings(caplog):
        assert re.search("^client 127.0.0.1:[0-9]+ .* is disconnected: TLS failed: ", message)


@pytest.mark.spec("TLS-8")
@pytest.mark.parametrize("size", [0, 1, 5, 100])
def test_a_stalled_handshake_costs_others_nothing_and_ends(
    size: int, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with serving_tls(certificates, stall_timeout=1) as served:
        stalled = [served.open_socket() for _ in range(20)]
        for each in stalled:
            each.sendall(first_flight(certificates)[:size])
        client = served.connect()
        for _ in range(50):
            commit(client)
            load(client)
        for each in stalled:
            assert is_closed(each)
            each.close()
        load(client)
        client.close()
        assert is_served(served)
    assert len(warnings(caplog)) == 20
    for message in warnings(caplog):
        assert message.endswith("is refused: its TLS handshake took longer than 1 seconds")


@pytest.mark.spec("TLS-8")
def test_a_deadline_is_not_moved_by_bytes_that_come_one_by_one(certificates: Certificates) -> None:
    with serving_tls(certificates, stall_timeout=1) as served, served.open_socket() as slow:
        slow.settimeout(0.05)
        for byte in first_flight(certificates) * 100:
            try:
                slow.sendall(bytes([byte]))
                if slow.recv(1) == b"":
                    break
            except TimeoutError:
                pass
            except ConnectionError:
                break
        else:
            pytest.fail("the server waits for ever")
        assert is_served(served)


@pytest.mark.spec("TLS-8")
def test_a_server_stops_while_a_handshake_is_stalled(certificates: Certificates) -> None:
    with serving_tls(certificates) as served:
        stalled = served.open_socket()
        stalled.sendall(first_flight(certificates)[:50])
        assert is_served(served)
        assert len(served.server._door._handshakes) == 1
    assert is_closed(stalled)
    stalled.close()


@pytest.mark.spec("TLS-13", "WIRE-42")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_of_a_server_holds_no_handshake_open(certificates: Certificates) -> None:
    with serving_tls(certificates) as served:
        stalled = served.open_socket()
        stalled.sendall(first_flight(certificates)[:50])
        assert is_served(served)
        (handshake,) = served.server._door._handshakes
        child = os.fork()
        if child == 0:
            os._exit(0 if stat.S_ISCHR(os.fstat(handshake.descriptor).st_mode) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stalled.sendall(first_flight(certificates)[50:])
        assert receive(stalled, 1) == b"\x16", "the parent continues"
        stalled.close()
        assert is_served(served)


# As without TLS


@pytest.mark.spec("TLS-1")
@pytest.mark.parametrize("protocol", [1, 2])
def test_objects_of_any_size_are_stored_and_loaded(protocol: int, certificates: Certificates) -> None:
    big = random.Random(1).randbytes(3_000_000)
    with serving_tls(certificates) as served:
        with Connection(served.connect(protocol=protocol)) as connection:
            connection.get_root().update(big=big, small={str(number): number for number in range(1000)})
            connection.commit()
        with Connection(served.connect("reader", protocol)) as other:
            root = other.get_root()
            assert (root["big"], len(root["small"])) == (big, 1000)


@pytest.mark.spec("TLS-13", "WIRE-30")
def test_a_client_connects_again(certificates: Certificates) -> None:
    with serving_tls(certificates) as served:
        connection = Connection(served.connect())
        connection.get_root()["x"] = 1
        connection.commit()
    connection.get_root()["x"] = 2
    with pytest.raises(DisconnectedError, match="the server has closed it; call abort") as error:
        connection.commit()
    assert not isinstance(error.value, OutcomeUnknownError), "it was known before anything was sent"
    with pytest.raises(DisconnectedError, match="connecting again failed"):
        connection.abort()
    with serving_tls(certificates, port=served.port):
        connection.abort()
        connection.get_root()["x"] = 3
        connection.commit()
        connection.close()


@pytest.mark.spec("TLS-13", "WIRE-25")
@pytest.mark.parametrize("where", ["recv", "sendall"])
def test_an_interrupted_call_ends_the_connection(
    where: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_tls(certificates) as served:
        client = served.connect()
        connection = Connection(client)
        connection.get_root()["x"] = 1
        with monkeypatch.context() as patch:
            patch.setattr(client, "_stream", Interrupting(client._stream, where))
            with pytest.raises(KeyboardInterrupt):
                connection.commit()
        connection.abort()
        assert connection.get_root().get("x") in (None, 1)
        connection.get_root()["x"] = 2
        connection.commit()
        assert connection.get_root()["x"] == 2
        connection.close()


class Interrupting:
    """A stream of which one method is interrupted after it has done half of its work."""

    def __init__(self, stream: object, where: str) -> None:
        assert isinstance(stream, TlsStream)
        self._stream, self._where = stream, where

    def sendall(self, data: bytes) -> None:
        self._stream.sendall(data)
        if self._where == "sendall":
            raise KeyboardInterrupt

    def recv(self, size: int) -> bytes:
        received = self._stream.recv(size)
        if self._where == "recv":
            raise KeyboardInterrupt
        return received

    def close(self) -> None:
        self._stream.close()


@pytest.mark.spec("TLS-13", "WIRE-42")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_leaves_the_session_of_its_parent_alone(certificates: Certificates) -> None:
    with serving_tls(certificates) as served:
        client = served.connect()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                client.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        load(client)
        commit(client)
        client.close()


@pytest.mark.spec("WIRE-31", "TLS-8")
def test_a_socket_that_does_not_wait_in_the_kernel_gets_the_timeout_itself(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_green_sockets(monkeypatch)
    with serving_tls(certificates) as served:
        client = ClientStorage(address=served.address("admin"), timeout=17)
        stream = client._stream
        assert isinstance(stream, TlsStream)
        assert stream._socket.gettimeout() == 17
        commit(client)
        client.close()


# The command


def run_durus(*arguments: str, folder: Path, status: int = 0) -> str:
    run = [sys.executable, "-m", "durus", *arguments]
    ended = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=SECONDS, input="")
    assert ended.returncode == status, ended.stderr
    return ended.stdout + ended.stderr


def tls_options(certificates: Certificates) -> list[str]:
    files = {"cert": certificates("server"), "client-ca": certificates("ca"), "roles": certificates.roles}
    return [word for name, path in files.items() for word in (f"--tls-{name}", path)]


@pytest.mark.spec("CMD-4", "TLS-1")
def test_commands_take_an_address_with_tls(certificates: Certificates, tmp_path: Path) -> None:
    with serving("--file", "f", *tls_options(certificates), folder=tmp_path) as server:
        where = f"durus+tls://localhost:{server.port}?tls_ca={certificates('ca')}&tls_cert={certificates('admin')}"
        with durus.open(where) as db:
            db.run(lambda root: root.update(x=1))
        assert "has packed" in run_durus("pack", "--wait", where, folder=tmp_path)
        assert "has begun to pack" in run_durus("pack", "--address", where, folder=tmp_path)
        assert f"Durus on durus+tls://localhost:{server.port}: " in run_durus("shell", where, folder=tmp_path)
        told = run_durus("pack", where.replace("tls_ca", "ca"), folder=tmp_path, status=2)
        assert "is not an address; write durus+tls://host:port" in told
        told = run_durus("pack", where.partition("?")[0], folder=tmp_path, status=1)
        assert told.startswith("durus: cannot connect to durus+tls://localhost")
        assert "give the file with the certificate of its CA with tls_ca" in told
        assert "has ended" in run_durus("serve", "--stop", "--address", where, folder=tmp_path)
        assert server.wait() == 0


@pytest.mark.spec("TLS-5", "CMD-2")
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--tls-key", "k"], 2, "--tls-key goes with --tls-cert"),
        (["--tls-client-ca", "k"], 2, "--tls-client-ca goes with --tls-cert"),
        (["--tls-cert", "k", "--tls-roles", "r"], 2, "--tls-roles goes with --tls-client-ca"),
        (["--tls-cert", "SERVER", "--address", "s"], 2, "--tls-cert is for a TCP port: leave out --address"),
        (["--tls-cert", "none"], 1, "durus: none: No such file or directory"),
    ],
)
def test_a_wrong_call_is_told(
    arguments: list[str], status: int, words: str, certificates: Certificates, tmp_path: Path
) -> None:
    given = [certificates("server") if word == "SERVER" else word for word in arguments]
    assert words in run_durus("serve", "--port", "0", *given, folder=tmp_path, status=status)
    assert not list(tmp_path.iterdir())


@pytest.mark.spec("TLS-12")
def test_a_signal_has_the_files_read_anew(certificates: Certificates, tmp_path: Path) -> None:
    options = tls_options(certificates)
    own = {name: str(tmp_path / name) for name in ("cert", "roles")}
    for name, path in own.items():
        shutil.copy(options[options.index(f"--tls-{name}") + 1], path)
        options[options.index(f"--tls-{name}") + 1] = path
    with serving("--file", "f", *options, folder=tmp_path) as server:

        def connect(client: str, server_name: str = "localhost") -> ClientStorage:
            files = {"tls_ca": certificates("ca"), "tls_cert": certificates(client)}
            return ClientStorage(address=TlsAddress("127.0.0.1", server.port, **files, tls_server_name=server_name))

        old = connect("writer")
        commit(old) if old.new_oid() == ROOT_OID else None
        shutil.copy(certificates("reader"), own["cert"])
        Path(own["roles"]).write_text("DNS:unnamed.example write\n")
        server.process.send_signal(signal.SIGHUP)
        server.log.expect("INFO the certificates and roles were read again")
        with pytest.raises(TlsError, match="not valid for 'localhost'"):
            connect("unnamed")
        with pytest.raises(TlsError, match="perhaps its list of roles has no name"):
            connect("writer", "reader.example")
        commit(connected := connect("unnamed", "reader.example"))
        connected.close()
        old.sync()
        load(old)
        Path(own["roles"]).write_text("DNS:unnamed.example\n")
        server.process.send_signal(signal.SIGHUP)
        server.log.expect(
            "WARNING the certificates and roles stay as they were: .*roles, line 1: expected a name and a"
        )
        load(connected := connect("unnamed", "reader.example"))
        connected.close()
        Path(own["roles"]).write_text("DNS:unnamed.example admin\n")
        Path(own["cert"]).write_text("nothing")
        server.process.send_signal(signal.SIGHUP)
        server.log.expect(
            "WARNING the certificates and roles stay as they were: .*cert: does not have both in PEM form"
        )
        connected = connect("unnamed", "reader.example")
        with pytest.raises(NotAllowedError):
            connected.stop_server()
        connected.close()
        old.close()


# stunnel, for programs that speak no TLS themselves


@needs_stunnel
@pytest.mark.spec("TLS-1")
@pytest.mark.parametrize("protocol", [1, 2])
def test_stunnel_at_both_ends_serves_a_program_without_tls(
    protocol: int, certificates: Certificates, short_path: Path
) -> None:
    socket_ = short_path / "s"
    server = Server("--file", "f", "--address", "s", "--may-stop", "user", folder=short_path)
    with server_end(certificates, socket_) as where:
        with client_end(certificates, "writer", where, "127.0.0.1:0", short_path / "client-end") as entry:
            port = int(entry.rpartition(":")[2])
            with Connection(ClientStorage(port=port, protocol=protocol)) as connection:
                connection.get_root()["x"] = b"x" * 100_000
                connection.commit()
            with Connection(ClientStorage(address=socket_)) as connection:
                assert len(connection.get_root()["x"]) == 100_000
        with (
            client_end(certificates, "stranger", where, "127.0.0.1:0", short_path / "client-end") as entry,
            pytest.raises(DisconnectedError),
        ):
            ClientStorage(port=int(entry.rpartition(":")[2]))
    assert server.end() == 0
