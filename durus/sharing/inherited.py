"""The sockets that a service manager passes to a server."""

import contextlib
import os
import socket
from collections.abc import Mapping

from durus.error import AddressError
from durus.sharing.address import SocketAddress
from durus.sharing.sockets import is_local_socket

_FIRST_SYSTEMD_DESCRIPTOR = 3


class InheritedAddress(SocketAddress):
    """The listening sockets that a service manager, such as systemd, has opened for this process.

    Args:
        count: how many sockets it passes.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __str__(self) -> str:
        return "the sockets of the service manager"

    def get_listening_socket(self) -> socket.socket:
        return self.get_listening_sockets()[0]

    def get_listening_sockets(self) -> list[socket.socket]:
        first = _FIRST_SYSTEMD_DESCRIPTOR
        with self._os_errors_as("listen on"), contextlib.ExitStack() as opened:
            found = [opened.enter_context(socket.socket(fileno=first + n)) for n in range(self._count)]
            for listening in found:
                listening.set_inheritable(False)
            self.is_local = all(is_local_socket(listening) for listening in found)
            opened.pop_all()
        return found


def inherited_address(environment: Mapping[str, str]) -> InheritedAddress | None:
    """Return the sockets that a service manager passes to this process.

    Args:
        environment: the environment variables; LISTEN_PID and LISTEN_FDS describe the sockets.

    Returns:
        Their address, or None if there are none for this process.

    Raises:
        AddressError: LISTEN_FDS is not a number.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = environment.get("LISTEN_FDS", "")
    if not count.isdecimal() or int(count) < 1:
        raise AddressError(f"LISTEN_FDS is {count!r}; expected the number of sockets, 1 or more")
    return InheritedAddress(int(count))
