"""TLS without sockets: what certificates and lists of roles say, and which of them are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from durus.error import AddressError, TlsError
from durus.sharing.address import SocketAddress, TlsAddress
from durus.sharing.roles import Access, MayStop, Peer, Role, read_names
from durus.sharing.tls import Channel, ClientTls, ServerTls
from tests.certificates import ROLES, Certificates, issue, make_certificates

READ, WRITE, ADMIN = Role


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def shake_hands(client: Channel, server: Channel) -> None:
    """Make the whole handshake, in which either side may raise TlsError."""
    to_client, is_done, is_done_there = b"", False, False
    for _ in range(5):
        is_done = is_done or client.shake_hands(to_client)
        is_done_there = is_done_there or server.shake_hands(client.outgoing())
        to_client = server.outgoing()
        if is_done and is_done_there:
            return
    raise AssertionError("the handshake does not end")


def pair(certificates: Certificates, client: str = "admin", name: str = "localhost") -> tuple[Channel, Channel]:
    tls = ServerTls(certificates("server"), client_ca=certificates("ca"))
    ends = ClientTls(certificates("ca"), certificates(client)).new_channel(name), tls.new_channel()
    shake_hands(*ends)
    return ends


@pytest.mark.spec("TLS-1")
@pytest.mark.parametrize("size", [0, 1, 250, 1 << 14, (1 << 14) + 1, 1 << 20])
def test_what_one_end_protects_the_other_one_receives_however_it_is_cut(certificates: Certificates, size: int) -> None:
    client, server = pair(certificates)
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for sender, receiver in (client, server), (server, client):
        protected = sender.protect(data) if data else b""
        assert size < 100 or data[:100] not in protected
        step = max(1, len(protected) // 50)
        pieces = [receiver.receive(protected[start : start + step]) for start in range(0, len(protected), step)]
        assert b"".join(pieces) == data
        assert receiver.receive(sender.protect(b"one") + sender.protect(b"two")) == b"onetwo"


@pytest.mark.spec("TLS-1")
def test_what_comes_with_the_end_of_the_handshake_is_not_lost(certificates: Certificates) -> None:
    client = ClientTls(certificates("ca"), certificates("admin")).new_channel("localhost")
    server = ServerTls(certificates("server"), client_ca=certificates("ca")).new_channel()
    client.shake_hands(b"")
    server.shake_hands(client.outgoing())
    assert client.shake_hands(server.outgoing())
    assert server.shake_hands(client.outgoing() + client.protect(b"V"))
    assert server.receive(b"") == b"V"


@pytest.mark.spec("TLS-11")
def test_an_orderly_end_is_noticed(certificates: Certificates) -> None:
    client, server = pair(certificates)
    assert client.receive(server.protect(b"last") + server.end()) == b"last"
    assert client.is_ended
    assert not server.is_ended


@pytest.mark.spec("TLS-9")
def test_a_changed_byte_is_an_error(certificates: Certificates) -> None:
    client, server = pair(certificates)
    sent = bytearray(server.protect(b"abc"))
    sent[-1] ^= 1
    with pytest.raises(TlsError, match="TLS failed: "):
        client.receive(bytes(sent))
    with pytest.raises(TlsError, match="bad record mac"):
        server.receive(client.outgoing())


@pytest.mark.spec("TLS-1")
def test_a_server_sends_no_tickets(certificates: Certificates) -> None:
    client, _ = pair(certificates)
    assert client._tls.session is None or not client._tls.session.has_ticket
    assert ServerTls(certificates("server"))._context.num_tickets == 0


# Names and roles


@pytest.mark.spec("TLS-6")
@pytest.mark.parametrize(
    ("client", "names"),
    [
        ("reader", {"DNS:reader.example"}),
        ("writer", {"email:writer@example.org", "DNS:not-named.example"}),
        ("admin", {"URI:urn:shop:admin"}),
        ("server", {"DNS:localhost"}),
    ],
)
def test_names_are_those_of_three_types(certificates: Certificates, client: str, names: set[str]) -> None:
    assert pair(certificates, client)[1].names() == names


@pytest.mark.spec("TLS-6")
def test_a_common_name_is_no_name_and_case_matters_only_in_dns(tmp_path: Path, certificates: Certificates) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca"))
    names = [x509.DNSName("A.Example"), x509.UniformResourceIdentifier("URN:Shop"), x509.RFC822Name("A@b.example")]
    for number, (issued, found) in enumerate(
        [
            (issue(ca, [], common_name="reader.example"), set()),
            (issue(ca, list(names)), {"DNS:a.example", "URI:URN:Shop", "email:A@b.example"}),
            (issue(ca, [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))]), set()),
        ]
    ):
        path = tmp_path / str(number)
        path.write_bytes(issued)
        server = ServerTls(certificates("server"), client_ca=str(tmp_path / "ca")).new_channel()
        shake_hands(ClientTls(certificates("ca"), str(path)).new_channel("localhost"), server)
        assert server.names() == found


@pytest.mark.spec("TLS-5")
def test_a_list_of_roles_is_read() -> None:
    expected = {"DNS:reader.example": READ, "email:writer@example.org": WRITE, "URI:urn:shop:admin": ADMIN}
    assert read_names(ROLES, "roles") == expected
    assert read_names(ROLES.replace("\n", "\r\n"), "roles") == expected


@pytest.mark.spec("TLS-5", "TLS-6")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("DNS:a", "expected a name and a role, .* found 1 words"),
        ("DNS:a read write", "found 3 words"),
        ("DNS:a read # why", "found 4 words"),
        ("DNS:a Read", "'Read' is not a role; the roles are read, write, admin"),
        ("a read", "'a' is not a name with its type; expected DNS:..., URI:..., email:..."),
        ("CN:a read", "'CN:a' is not a name with its type"),
        ("dns:a read", "'dns:a' is not a name with its type"),
        ("DNS: read", "'DNS:' is not a name with its type"),
        ("DNS:*.a read", "are not patterns"),
        ("DNS:\u00e4 read", "names are ASCII"),
        ("DNS:a\0 read", "not allowed"),
        ("DNS:X read", "'DNS:x' occurs twice"),
    ],
)
def test_a_wrong_line_is_told_by_its_number(line: str, words: str) -> None:
    with pytest.raises(TlsError, match=f"^file, line 3: .*{words}"):
        read_names(f"DNS:x write\n\n{line}\nDNS:z read\n", "file")


@pytest.mark.spec("TLS-5")
@pytest.mark.parametrize("text", ["", "\n", "# nothing\n"])
def test_a_list_without_names_is_refused(text: str) -> None:
    with pytest.raises(TlsError, match="file: it has no line such as"):
        read_names(text, "file")


@pytest.mark.spec("TLS-5", "TLS-7")
@pytest.mark.parametrize("may_stop", ["user", "local", "anyone"])
def test_a_list_of_names_decides_on_tcp(may_stop: MayStop) -> None:
    roles = {"DNS:r": READ, "DNS:w": WRITE, "DNS:a": ADMIN}
    for access in Access(may_stop=may_stop), Access({54321: ADMIN}, may_stop=may_stop):
        for names, role in [
            ({"DNS:r"}, READ),
            ({"DNS:w"}, ADMIN if may_stop == "anyone" else WRITE),
            ({"DNS:a"}, ADMIN),
            ({"DNS:r", "DNS:a", "DNS:x"}, ADMIN),
            ({"DNS:x", "URI:r", "r"}, None),
            ((), None),
        ]:
            peer = Peer("peer", is_unix=False, is_loopback=True, names=frozenset(names))
            assert access.role_of(peer, roles) == role
        assert access.role_of(Peer("peer", is_unix=True, user=0), roles) == ADMIN


# Files that are wrong


WRONG: dict[str, tuple[Callable[[Certificates, Path], object], str]] = {
    "no certificate": (lambda made, folder: ServerTls(str(folder / "none")), "none: No such file"),
    "no key": (lambda made, folder: ServerTls(made("server"), str(folder / "none")), "none: No such file"),
    "empty": (lambda made, folder: ServerTls(str(folder / "empty")), "empty: does not have both in PEM form"),
    "text": (lambda made, folder: ServerTls(str(folder / "text")), "text: does not have both in PEM form"),
    "only the certificate": (lambda made, folder: ServerTls(made("ca")), "does not have both in PEM form"),
    "another key": (
        lambda made, folder: ServerTls(made("server"), str(folder / "key")),
        "are not a certificate .* key values mismatch",
    ),
    "a key with a password": (
        lambda made, folder: ServerTls(made("server"), str(folder / "locked")),
        "locked: the key has a password",
    ),
    "no CA": (
        lambda made, folder: ServerTls(made("server"), client_ca=str(folder / "text")),
        "text: has no certificates of CAs",
    ),
    "a folder": (lambda made, folder: ServerTls(made("server"), client_ca=str(folder)), "Is a directory"),
    "roles without CA": (lambda made, folder: ServerTls(made("server"), roles=made.roles), "need client_ca"),
    "a wrong role": (
        lambda made, folder: ServerTls(made("server"), None, made("ca"), str(folder / "roles")),
        "roles, line 1: 'rule' is not a role",
    ),
    "roles that are no text": (
        lambda made, folder: ServerTls(made("server"), None, made("ca"), str(folder / "text")),
        "text: is not text in UTF-8",
    ),
    "a client's key alone": (lambda made, folder: ClientTls(key="key"), "tls_key is given without tls_cert"),
    "no CA of a client": (lambda made, folder: ClientTls(str(folder / "none")).new_channel("a"), "none: No such file"),
    "no name": (lambda made, folder: ClientTls(made("ca")).new_channel(".a"), "TLS failed: "),
}


@pytest.mark.spec("TLS-3", "TLS-4", "TLS-5")
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_told(what: str, certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"no certificate \xff")
    (tmp_path / "roles").write_text("DNS:a rule\n")
    key = ec.generate_private_key(ec.SECP256R1())
    for name, encryption in {
        "key": serialization.NoEncryption(),
        "locked": serialization.BestAvailableEncryption(b"secret"),
    }.items():
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        (tmp_path / name).write_bytes(key.private_bytes(*form))
    make, words = WRONG[what]
    with pytest.raises(TlsError, match=words):
        make(certificates, tmp_path)


@pytest.mark.spec("TLS-12")
def test_a_file_that_becomes_wrong_changes_nothing(certificates: Certificates, tmp_path: Path) -> None:
    roles = tmp_path / "roles"
    roles.write_text(ROLES)
    tls = ServerTls(certificates("server"), client_ca=certificates("ca"), roles=str(roles))
    before = tls._context, tls.roles
    roles.write_text("DNS:reader.example reads")
    with pytest.raises(TlsError, match="line 1: 'reads' is not a role"):
        tls.read()
    assert (tls._context, tls.roles) == before
    roles.write_text("DNS:reader.example admin")
    tls.read()
    assert tls.roles == {"DNS:reader.example": ADMIN}
    assert tls._context is not before[0]


def test_a_client_reads_its_files_again_only_if_they_have_changed(certificates: Certificates, tmp_path: Path) -> None:
    path = tmp_path / "client"
    path.write_bytes(Path(certificates("reader")).read_bytes())
    tls = ClientTls(certificates("ca"), str(path))
    tls.new_channel("a")
    made = tls._made
    tls.new_channel("a")
    assert tls._made is made
    path.write_bytes(Path(certificates("writer")).read_bytes())
    tls.new_channel("a")
    assert tls._made is not made


# Addresses


@pytest.mark.spec("DB-1", "TLS-3")
def test_an_address_holds_what_tls_needs(certificates: Certificates) -> None:
    address = SocketAddress.new(f"durus+tls://[::1]:5?tls_ca={certificates('ca')}&tls_server_name=a.example")
    assert isinstance(address, TlsAddress)
    assert str(address) == "durus+tls://[::1]:5"
    assert (address.host, address.port, address._server_name) == ("::1", 5, "a.example")
    assert str(SocketAddress.new("durus+tls://a.example")) == "durus+tls://a.example:2972"
    for wrong in ("durus+tls://", "durus+tls://a?b", "durus+tls://a?tls=1", "durus+tls://a/b", "durus+tls://a:b"):
        with pytest.raises(AddressError, match=r"is not an address; write durus\+tls://host:port, .* tls_ca, tls_cert"):
            SocketAddress.new(wrong)
    with pytest.raises(AddressError, match="the host is missing"):
        TlsAddress("")
    with pytest.raises(AddressError, match="is an address for clients"):
        TlsAddress("localhost", 0).get_listening_sockets()
