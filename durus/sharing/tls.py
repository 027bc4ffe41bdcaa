"""TLS for both ends of a connection: which certificates are used, and who the other end is. Statements of spec/tls.md.

The files are read here. A Channel has no socket: bytes of the network go in, bytes of the protocol come out, and the
other way round.
"""

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import cast

from durus.error import TlsError
from durus.sharing.roles import NAME_TYPES, Role, read_names

ALPN = "durus"
"""What both sides must ask for. [TLS-2]"""
NOT_TLS = bytes.fromhex("15030300020246")
"""The alert for a client that does not begin with TLS: protocol_version. [TLS-10]"""
_HANDSHAKE = 0x16
_READ_AT_A_TIME = 1 << 14
"""A record is not longer, and one call reads one record at most: so what is left to read has not been taken in."""
_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH = 62, 64
_NOT_YET_VALID, _EXPIRED = 9, 10


class Channel:
    """One end of a TLS connection, without its socket.

    Every error of TLS is a TlsError; what outgoing() returns after it tells the other end.

    Args:
        context: from ServerTls or ClientTls.
        server_name: for a client, the name that the certificate of the server must have.
    """

    def __init__(self, context: ssl.SSLContext, server_name: str | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._is_server = server_name is None
        self._has_begun = False
        self.is_ended = False
        """True if the other end has said that it sends no more."""
        self.has_answer = False
        """True if TLS itself has something to send, after receive()."""
        with self._errors_explained():
            self._tls = context.wrap_bio(self._incoming, self._outgoing, self._is_server, server_name)

    def shake_hands(self, data: bytes) -> bool:
        """Go on with the handshake, with bytes that have come; return whether it is complete.

        Raises:
            TlsError: the other end is not accepted, or does not accept this one.
        """
        if self._is_server and data and not self._has_begun and data[0] != _HANDSHAKE:
            self._outgoing.write(NOT_TLS)
            raise TlsError(f"it does not speak TLS: its first byte is {data[:1]!r}; it must open durus+tls://...")
        self._has_begun = self._has_begun or bool(data)
        with self._errors_explained():
            self._incoming.write(data)
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
        if self._tls.selected_alpn_protocol() != ALPN:
            raise TlsError(f"{self._other} speaks TLS, but not the protocol {ALPN!r} of ALPN")
        return True

    def receive(self, data: bytes) -> bytes:
        """Return the bytes of the protocol in what has come from the network. Look at `has_answer` then."""
        incoming, tls = self._incoming, self._tls
        pieces = []
        try:
            incoming.write(data)
            while incoming.pending:
                piece = tls.read(_READ_AT_A_TIME)
                if not piece:
                    self.is_ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise TlsError(_explain(error, self._is_server)) from error
        if self._outgoing.pending:
            self.has_answer = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def protect(self, data: bytes) -> bytes:
        """Return what is to be sent for these bytes of the protocol."""
        try:
            done = self._tls.write(data)
            if done < len(data):
                rest = memoryview(data)
                while done < len(data):
                    done += self._tls.write(rest[done:])
        except ssl.SSLError as error:
            raise TlsError(_explain(error, self._is_server)) from error
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        """Return what TLS itself has to send."""
        self.has_answer = False
        return self._outgoing.read()

    def end(self) -> bytes:
        """Return what tells the other end that nothing more is sent. [TLS-11]"""
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()
        return self._outgoing.read()

    def names(self) -> frozenset[str]:
        """Return the names in the certificate of the other end, such as `URI:urn:shop`. [TLS-6]"""
        with self._errors_explained():
            certificate = self._tls.getpeercert() or {}
        found = []
        for kind, name in cast("tuple[tuple[str, object], ...]", certificate.get("subjectAltName", ())):
            if kind in NAME_TYPES:
                found.append(f"{kind}:{str(name).lower() if kind == 'DNS' else name}")
        return frozenset(found)

    @property
    def _other(self) -> str:
        return "it" if self._is_server else "the server"

    @contextlib.contextmanager
    def _errors_explained(self) -> Iterator[None]:
        try:
            yield
        except ssl.SSLWantReadError:
            raise
        except (ssl.SSLError, ValueError) as error:  # ValueError of a name that is none
            raise TlsError(_explain(error, self._is_server)) from error


def _explain(error: Exception, is_server: bool) -> str:
    """Say what went wrong, and what helps."""
    reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"{'its certificate' if is_server else 'the certificate of the server'} is not accepted"
        return f"{what}: {error.verify_message.rstrip('.')}; {_advice(error.verify_code, is_server)}"
    _, is_alert, alert = reason.partition("alert ")
    if "certificate required" in reason:
        return "the server requires a certificate of the client: give tls_cert and tls_key"
    if "did not return a certificate" in reason:
        return "it has no certificate; it must give one with tls_cert"
    if is_alert and alert == "protocol version":
        return f"{'it' if is_server else 'the server'} does not support TLS 1.3"
    if is_alert and is_server:
        return f"it does not accept the certificate of this server, or its TLS: {alert}"
    if is_alert:
        return (
            f"the server does not accept the certificate of this client, or its TLS: {alert}; the certificate must "
            "be valid now, and come from a CA in the server's --tls-client-ca"
        )
    if "wrong version number" in reason:
        advice = "what answers there does not speak TLS; durus://... is for a server without TLS"
        return "it does not speak TLS" if is_server else advice
    if "unsupported protocol" in reason:
        return "it does not support TLS 1.3"
    return f"TLS failed: {reason}"


def _advice(code: int, is_server: bool) -> str:
    if code in (_NOT_YET_VALID, _EXPIRED):
        return "renew it, and compare the clocks of both machines"
    if is_server:
        return "it must come from a CA in --tls-client-ca, and be for clients"
    if code in (_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH):
        return "give the name that it is for with tls_server_name"
    return "give the file with the certificate of its CA with tls_ca"


class ClientTls:
    """What a client needs for TLS. The files are read at the first use, and again when they have changed.

    Args:
        ca: the path of a file with the certificates of the CAs that are trusted; None takes those of the system.
        cert: the path of a file with the certificate of the client, and those of the CAs between.
        key: the path of a file with its key; None takes it from the file `cert`.
    """

    def __init__(self, ca: str | None = None, cert: str | None = None, key: str | None = None) -> None:
        if key is not None and cert is None:
            raise TlsError("tls_key is given without tls_cert")
        self._ca, self._cert, self._key = (None if path is None else os.path.abspath(path) for path in (ca, cert, key))
        self._made: tuple[object, ssl.SSLContext] | None = None

    def new_channel(self, server_name: str) -> Channel:
        """Return the client's end of a new connection; TlsError if a file is wrong."""
        paths = [path for path in (self._ca, self._cert, self._key) if path is not None]
        signature = [_signature_of(path) for path in paths]
        made = self._made
        if made is None or made[0] != signature:
            self._made = made = signature, self._new_context()
        return Channel(made[1], server_name)

    def _new_context(self) -> ssl.SSLContext:
        context = _new_context(ssl.PROTOCOL_TLS_CLIENT)  # which verifies the server and its name
        if self._ca is None:
            context.load_default_certs()
        else:
            _load_ca(context, self._ca)
        if self._cert is not None:
            _load_certificate(context, self._cert, self._key)
        return context


class ServerTls:
    """What a server needs for TLS.

    Args:
        cert: the path of a file with the certificate of the server, and those of the CAs between.
        key: the path of a file with its key; None takes it from the file `cert`.
        client_ca: the path of a file with the certificates of the CAs of clients. With it, every client needs a
            certificate of one of them. [TLS-4]
        roles: the path of a file that gives names in certificates their roles; it needs `client_ca`. [TLS-5]

    Raises:
        TlsError: a file is wrong.
    """

    def __init__(
        self, cert: str, key: str | None = None, client_ca: str | None = None, roles: str | None = None
    ) -> None:
        if roles is not None and client_ca is None:
            raise TlsError("roles of clients need client_ca, since nothing else says who a client is")
        self._paths = cert, key, client_ca, roles
        self.knows_clients = client_ca is not None
        """True if every client needs a certificate."""
        self.roles: Mapping[str, Role] | None = None
        """The roles by name in the certificate; None if there is no such list."""
        self.read()

    def read(self) -> None:
        """Read the files again, for the connections from now on; TlsError if one is wrong, and then nothing changes."""
        cert, key, client_ca, roles = self._paths
        context = _new_context(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # a session that continues would outlive its certificate
        _load_certificate(context, cert, key)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            _load_ca(context, client_ca)
        names = None if roles is None else read_names(_text_of(roles), roles)
        self._context, self.roles = context, names

    def new_channel(self) -> Channel:
        """Return the server's end of a new connection."""
        return Channel(self._context)


def _new_context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    return context


def _load_certificate(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    files = cert if key is None else f"{cert} and {key}"
    with _reading(files, "are not a certificate in PEM form and its key" if key else "does not have both in PEM form"):
        for path in (cert,) if key is None else (cert, key):
            _check_readable(path)
        context.load_cert_chain(cert, key, _refuse_password)


def _load_ca(context: ssl.SSLContext, ca: str) -> None:
    with _reading(ca, "has no certificates of CAs in PEM form"):
        _check_readable(ca)
        context.load_verify_locations(ca)


def _refuse_password() -> str:
    raise TlsError(
        "the key has a password, which can't be entered here: store it without one, readable by one user only"
    )


def _check_readable(path: str) -> None:
    with open(path, "rb"):  # the errors of ssl do not name the file
        pass


def _text_of(path: str) -> str:
    with _reading(path, "is not text in UTF-8"), open(path, encoding="utf-8") as file:
        return file.read()


@contextlib.contextmanager
def _reading(files: str, what: str) -> Iterator[None]:
    try:
        yield
    except TlsError as error:
        raise TlsError(f"{files}: {error}") from None
    except ssl.SSLError as error:
        raise TlsError(f"{files}: {what}: {(error.reason or str(error)).replace('_', ' ').lower()}") from error
    except OSError as error:
        raise TlsError(f"{error.filename or files}: {error.strerror or error}") from error
    except ValueError as error:
        raise TlsError(f"{files}: {what}: {error}") from error


def _signature_of(path: str) -> tuple[int, int, int]:
    """Return a value that changes when the file changes."""
    with _reading(path, "can't be read"):
        status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
