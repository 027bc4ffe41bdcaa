"""What the addresses and the server do with sockets of the operating system."""

import contextlib
import ipaddress
import socket
from collections.abc import Iterator

_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 4}
"""When to probe a silent peer: after how many seconds, at which interval, and how many times; minutes in total."""


def set_tcp_options(connected: socket.socket) -> None:
    """Send each message immediately, and detect a peer that disappears without closing."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def is_local_socket(listening: socket.socket) -> bool:
    """Return whether only processes of this machine can connect to a socket."""
    if listening.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


@contextlib.contextmanager
def closing_on_error(opened: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        opened.close()
        raise
