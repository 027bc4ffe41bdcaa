"""Where a storage server listens and clients connect: TCP ports, with TLS or without, and Unix sockets.

An address makes sockets, connected or listening ones, and knows nothing of what is sent through them. It turns
what the operating system refuses into an AddressError that names the address.
"""

import contextlib
import errno
import os
import re
import socket
import stat
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Union

from durus.error import AddressError, TlsError
from durus.sharing.protocol import DEFAULT_HOST, DEFAULT_PORT
from durus.sharing.sockets import closing_on_error, is_local_socket, set_tcp_options
from durus.sharing.tls_stream import TlsStream
from durus.sharing.unix_sockets import (
    number_of_group,
    number_of_user,
    number_or_name,
    risk_of_folder,
    same_file,
    umask_of_process,
)

BACKLOG = 1024
_NOBODY_THERE = (errno.ECONNREFUSED, errno.ENOENT)
_HOST_AND_PORT = re.compile(r"[^/:]+:\d+")

AnyAddress = Union["SocketAddress", str, bytes, os.PathLike[str], os.PathLike[bytes], tuple[str, int]]
"""A (host, port) pair, the path of a Unix socket, `@name` for an abstract one of Linux, or `durus+tls://host:port`."""


class SocketAddress:
    """An address of one of the kinds below, or the sockets that a service manager passes."""

    is_local = True
    """True if only processes of this machine can connect."""
    risk: str | None = None
    """What would let others take the place of the server, found when a socket was made. [WIRE-54]"""

    @staticmethod
    def new(
        address: AnyAddress,
        *,
        owner: str | int | None = None,
        group: str | int | None = None,
        umask: int | None = None,
    ) -> "SocketAddress":
        """Return the address that a value stands for.

        Args:
            address: an address, a (host, port) pair, the path of a Unix socket, `@name`, or `durus+tls://host:port`.
            owner: who owns the Unix socket that a server makes at this path, by name or number.
            group: the group of that socket, by name or number.
            umask: the permission bits that the socket does not get, from 0 to 0o777.

        Raises:
            AddressError: the value is not an address.
        """
        if isinstance(address, SocketAddress):
            return address
        if isinstance(address, str | bytes | os.PathLike):
            path = os.fsdecode(address)
            if path.startswith("@"):
                return UnixAbstractAddress(path)
            if path.startswith(_TLS_SCHEME + "//"):
                return TlsAddress.parse(path)
            if _HOST_AND_PORT.fullmatch(path) and not os.path.exists(path):
                host, _, number = path.rpartition(":")
                raise AddressError(
                    f"{path!r} is not an address; use ({host!r}, {number}), or './{path}' for a Unix socket"
                )
            return UnixDomainSocketAddress(path, owner, group, umask)
        if isinstance(address, tuple | list) and len(address) == 2:
            return HostPortAddress(*address)
        raise AddressError(
            f"{address!r} is not an address; expected a (host, port) pair, the path of a Unix socket, or @name"
        )

    def get_connected_socket(self, timeout: float | None = None) -> socket.socket | None:
        """Return a connected socket.

        Args:
            timeout: how many seconds connecting may take, None for no limit. The socket keeps this timeout.

        Returns:
            The socket, or None if no server listens here.

        Raises:
            AddressError: connecting fails for another reason.
        """
        raise NotImplementedError

    def get_listening_socket(self) -> socket.socket:
        """Return a socket that listens here; AddressError if that is impossible."""
        raise NotImplementedError

    def get_listening_sockets(self) -> list[socket.socket]:
        """Return all sockets that listen for this address."""
        return [self.get_listening_socket()]

    def close(self, listening: socket.socket) -> None:
        """Close a socket of get_listening_socket(), and remove its name."""
        listening.close()

    def stream_of(self, connected: socket.socket, deadline: float | None) -> "socket.socket | TlsStream":
        """Return what carries the bytes of the protocol on a connected socket: the socket itself, or TLS on it.

        Args:
            connected: the socket.
            deadline: when this must be done, by time.monotonic(); None for no limit.

        Raises:
            TlsError: one side does not accept the other.
        """
        return connected

    def compresses(self, connected: socket.socket) -> bool:
        """Return whether a client compresses long messages on this connection by default. [WIRE2-7]"""
        return False

    @contextlib.contextmanager
    def _os_errors_as(self, operation: str) -> Iterator[None]:
        try:
            yield
        except AddressError:
            raise
        except (OSError, OverflowError, ValueError, LookupError, TypeError) as error:  # ValueError of a NUL in a name
            raise AddressError(f"cannot {operation} {self}: {getattr(error, 'strerror', None) or error}") from error


class HostPortAddress(SocketAddress):
    """A TCP port of a host.

    Args:
        host: a host name, an IPv4 or an IPv6 address.
        port: the port number; a server that listens on 0 gets any free port.
    """

    def __init__(self, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> None:
        if not isinstance(host, str):
            raise AddressError(f"{host!r} is not a host; expected a host name or an IP address, as a str")
        if type(port) is not int or not 0 <= port < 1 << 16:
            raise AddressError(f"{port!r} is not a port; expected a number from 0 to 65535")
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def get_connected_socket(self, timeout: float | None = None) -> socket.socket | None:
        with self._os_errors_as("connect to"):
            try:
                connected = socket.create_connection((self.host, self.port), timeout)
            except OSError as error:
                if error.errno in _NOBODY_THERE:
                    return None
                raise
        set_tcp_options(connected)
        return connected

    def get_listening_socket(self) -> socket.socket:
        with self._os_errors_as("listen on"):
            family, kind, protocol, _, name = socket.getaddrinfo(
                self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind, protocol)
            with closing_on_error(listening):
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, self.host != "::")
                listening.bind(name)
                listening.listen(BACKLOG)
        self.port = listening.getsockname()[1]
        self.is_local = is_local_socket(listening)
        return listening

    def compresses(self, connected: socket.socket) -> bool:
        return bool(connected.getpeername()[0] != connected.getsockname()[0])


_TLS_SCHEME = "durus+tls:"
_TLS_OPTIONS = {"tls_ca", "tls_cert", "tls_key", "tls_server_name"}


class TlsAddress(HostPortAddress):
    """A TCP port of a host, for clients that speak TLS with the server there. Statements TLS-1 to TLS-3.

    Args:
        host: a host name, an IPv4 or an IPv6 address.
        port: the port number.
        tls_ca: the path of a file with the certificates of the CAs that are trusted; None takes those of the system.
        tls_cert: the path of a file with the certificate of the client.
        tls_key: the path of a file with its key; None takes it from the file `tls_cert`.
        tls_server_name: the name that the certificate of the server must have; None takes the host.

    Raises:
        AddressError: the host or the port is none.
        TlsError: there is a key without a certificate.
    """

    def __init__(
        self,
        host: str,
        port: int = DEFAULT_PORT,
        *,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_server_name: str | None = None,
    ) -> None:
        from durus.sharing.tls import ClientTls  # only if needed, because of its imports

        super().__init__(host, port)
        self._tls = ClientTls(tls_ca, tls_cert, tls_key)
        self._server_name = host if tls_server_name is None else tls_server_name
        if not self._server_name:
            raise AddressError(f"{self} is not an address; the host is missing, whose certificate is to be checked")

    @staticmethod
    def parse(text: str) -> "TlsAddress":
        """Return the address in `durus+tls://host:port?option=value`; AddressError if it is wrong."""
        where, _, query = text.partition("?")
        found = split_host_and_port(where)
        try:
            options = dict(urllib.parse.parse_qsl(query, strict_parsing=True)) if query else {}
        except ValueError:
            found = None
        if found is None or options.keys() - _TLS_OPTIONS:
            raise AddressError(
                f"{text!r} is not an address; write durus+tls://host:port, and after a ? the options that it needs, "
                f"as name=value&name=value, of {', '.join(sorted(_TLS_OPTIONS))}"
            )
        host, port = found
        return TlsAddress(host, DEFAULT_PORT if port is None else port, **options)

    def __str__(self) -> str:
        return f"{_TLS_SCHEME}//{super().__str__()}"

    def get_listening_socket(self) -> socket.socket:
        raise AddressError(f"{self} is an address for clients; a server listens on a host and port, with --tls-cert")

    def stream_of(self, connected: socket.socket, deadline: float | None) -> "socket.socket | TlsStream":
        with closing_on_error(connected):
            try:
                stream = TlsStream(connected, self._tls.new_channel(self._server_name))
                stream.shake_hands(deadline)
            except TlsError as error:
                raise TlsError(f"cannot connect to {self}: {error}") from error.__cause__
            except OSError as error:
                with self._os_errors_as("connect to"):
                    raise error
        return stream

    def compresses(self, connected: socket.socket) -> bool:
        return False  # the length of a compressed message tells something about what is in it


def split_host_and_port(where: str) -> tuple[str, int | None] | None:
    """Return the host, and the port if there is one, of `scheme://host:port`; None for any other text."""
    try:
        parts = urllib.parse.urlsplit(where)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.path not in ("", "/") or parts.username is not None or parts.fragment:
        return None
    return parts.hostname, port


class UnixAddress(SocketAddress):
    """The common part of both kinds of Unix sockets."""

    filename: str

    def get_connected_socket(self, timeout: float | None = None) -> socket.socket | None:
        with self._os_errors_as("connect to"):
            connected = socket.socket(socket.AF_UNIX)
            with closing_on_error(connected):
                connected.settimeout(timeout)
                try:
                    connected.connect(self.filename)
                except OSError as error:
                    if error.errno not in _NOBODY_THERE:
                        raise
                    connected.close()
                    return None
        return connected


class UnixAbstractAddress(UnixAddress):
    """A name in the abstract namespace of Linux for Unix sockets.

    Args:
        filename: the name, with or without the `@` before it.
    """

    def __init__(self, filename: str) -> None:
        self.filename = "\0" + filename.removeprefix("@")
        if self.filename == "\0":
            raise AddressError("'@' is not an address; the name of the socket is missing")

    def __str__(self) -> str:
        return "@" + self.filename[1:]

    def get_listening_socket(self) -> socket.socket:
        with self._os_errors_as("listen on"):
            listening = socket.socket(socket.AF_UNIX)
            with closing_on_error(listening):
                listening.bind(self.filename)
                listening.listen(BACKLOG)
        return listening


class UnixDomainSocketAddress(UnixAddress):
    """A Unix socket in the file system.

    Args:
        filename: the path of the socket.
        owner: who owns the socket that a server makes, by name or number.
        group: the group of that socket, by name or number.
        umask: the permission bits that the socket does not get, from 0 to 0o777.
    """

    def __init__(
        self,
        filename: str,
        owner: str | int | None = None,
        group: str | int | None = None,
        umask: int | None = None,
    ) -> None:
        if umask is not None and (type(umask) is not int or not 0 <= umask <= 0o777):
            raise AddressError(f"{umask!r} is not a umask; expected a number from 0 to 0o777")
        if not filename:
            raise AddressError("'' is not an address; the path of the socket is missing")
        self.filename = os.path.abspath(filename)
        self._owner = number_or_name(owner)
        self._group = number_or_name(group)
        self._umask = umask
        self._made: os.stat_result | None = None
        self._process = os.getpid()

    def __str__(self) -> str:
        return self.filename

    def get_listening_socket(self) -> socket.socket:
        with self._os_errors_as("listen on"):
            listening = socket.socket(socket.AF_UNIX)
            try:
                mode = self._bind_anew(listening)
                listening.listen(BACKLOG)  # immediately: until it listens, another server takes it for stale
                self._made, self._process = os.lstat(self.filename), os.getpid()
                self._open_up(self._made, mode)
            except BaseException:
                self.close(listening)
                raise
        self.risk = risk_of_folder(os.path.dirname(self.filename))
        return listening

    def _open_up(self, made: os.stat_result, mode: int) -> None:
        """Give the socket, to which nobody could connect so far, its owner and group, and then its permissions."""
        user, group = number_of_user(self._owner), number_of_group(self._group)
        with same_file(self.filename, made) as path:
            if user != -1 or group != -1:
                os.chown(path, user, group)
            os.chmod(path, mode)

    def close(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # another process may have removed the name
            is_own = self._made is not None and self._process == os.getpid()  # a forked child owns no socket [WIRE-42]
            if is_own and self._made is not None and os.path.samestat(os.lstat(self.filename), self._made):
                os.unlink(self.filename)
        self._made = None
        listening.close()

    def _bind_anew(self, listening: socket.socket) -> int:
        """Give the socket its name; return the permissions that it is to have."""
        try:
            return self._bind(listening)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            self._remove_if_stale()
            return self._bind(listening)

    def _bind(self, listening: socket.socket) -> int:
        umask = umask_of_process() if self._umask is None else self._umask
        if sys.platform == "linux":
            os.fchmod(listening.fileno(), 0)  # nobody may connect until it has its owner and its group [WIRE-54]
            listening.bind(self.filename)
        else:
            before = os.umask(0o277)  # likewise; files that other threads make meanwhile can be read, at least
            try:
                listening.bind(self.filename)
            finally:
                os.umask(before)
        return 0o777 & ~umask

    def _remove_if_stale(self) -> None:
        """Remove the socket of a server that has ended; AddressError if it is anything else."""
        found = os.lstat(self.filename)
        if not stat.S_ISSOCK(found.st_mode):
            raise AddressError(f"cannot listen on {self}: a file with this name exists, and it is not a socket")
        connected = self.get_connected_socket(timeout=1)
        if connected is not None:
            connected.close()
        if connected is not None or not os.path.samestat(os.lstat(self.filename), found):
            raise AddressError(f"cannot listen on {self}: another server listens on it")
        os.unlink(self.filename)
