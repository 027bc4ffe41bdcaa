"""Reaching a server on its address: connecting to it, and waiting for it to start."""

import socket
import time

from durus.error import AddressError, ServerUnreachableError
from durus.sharing.address import AnyAddress, HostPortAddress, SocketAddress, TlsAddress, UnixAddress
from durus.sharing.protocol import DEFAULT_HOST, DEFAULT_PORT
from durus.text import command_line


def connect(address: SocketAddress, timeout: float | None) -> socket.socket:
    """Return a connected socket.

    Args:
        address: the address of the server.
        timeout: how many seconds connecting may take, None for no limit. The socket keeps this timeout.

    Raises:
        ServerUnreachableError: no server listens there.
        AddressError: connecting fails for another reason.
    """
    connected = address.get_connected_socket(timeout)
    if connected is None:
        raise ServerUnreachableError(f"no server listens on {address}{_how_to_serve(address)}")
    return connected


def _how_to_serve(address: SocketAddress) -> str:
    """Return the end of a message that says how to start a server on an address. [CMD-70]"""
    if isinstance(address, UnixAddress):
        options = ["--address", str(address)]
    elif isinstance(address, HostPortAddress) and not isinstance(address, TlsAddress):
        options = ["--host", address.host, "--port", str(address.port)]
    else:
        return ""
    return f"; start one there with {command_line('serve', options)} and the name of its file"


def wait_for_server(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    maxtries: int = 300,
    sleeptime: float = 2,
    address: AnyAddress | None = None,
) -> None:
    """Return as soon as a server accepts connections.

    Args:
        host: the host of the server.
        port: its port.
        maxtries: how often to try.
        sleeptime: how many seconds to wait between two tries.
        address: the address of the server, instead of `host` and `port`.

    Raises:
        ServerUnreachableError: no try succeeded.
        AddressError: the address is wrong.
    """
    target = SocketAddress.new((host, port) if address is None else address)
    for tries in range(maxtries):
        if tries:
            time.sleep(sleeptime)
        try:
            connected = target.get_connected_socket(timeout=max(sleeptime, 1))
        except AddressError as error:
            if not isinstance(error.__cause__, TimeoutError):
                raise
            continue
        if connected is not None:
            connected.close()
            return
    raise ServerUnreachableError(f"no server listens on {target}, after {maxtries} tries, {sleeptime} seconds apart")
