"""Who is on the other side of a connection, as the kernel tells. Statement WIRE-53."""

import ipaddress
import platform
import socket
import struct
import sys

from durus.sharing.address import HostPortAddress
from durus.sharing.roles import Peer

_UCRED = struct.Struct("iII")
"""What Linux tells: process, user, group."""
_XUCRED = struct.Struct("IIh16I")
"""What BSD and macOS tell: version, user, number of groups, groups."""
_SO_PEERGROUPS = 59
"""Of Linux, for most machines; Python has no name for it."""


def peer_of(connected: socket.socket, address: object) -> Peer:
    """Return who has connected; OSError if it has gone already.

    Args:
        connected: the socket.
        address: what accept() has returned with it.
    """
    if connected.family != socket.AF_UNIX:
        if not isinstance(address, tuple):
            return Peer("(already disconnected)", is_unix=False)
        return Peer(str(HostPortAddress(*address[:2])), is_unix=False, is_loopback=_is_loopback(address[0]))
    if hasattr(socket, "SO_PEERCRED"):
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        process, user, group = _UCRED.unpack(credentials)
        groups = frozenset((group, *_other_groups(connected)))
        return Peer(f"process {process} of user {user}", is_unix=True, user=user, groups=groups)
    if hasattr(socket, "LOCAL_PEERCRED"):
        return peer_of_xucred(connected.getsockopt(0, socket.LOCAL_PEERCRED, _XUCRED.size))
    return Peer("on this machine", is_unix=True)


def peer_of_xucred(credentials: bytes) -> Peer:
    """Return who has connected, as BSD and macOS tell it."""
    _, user, count, *groups = _XUCRED.unpack(credentials)
    return Peer(f"a process of user {user}", is_unix=True, user=user, groups=frozenset(groups[:count]))


def _other_groups(connected: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of the process that has connected, none if the system does not tell."""
    if sys.platform != "linux" or platform.machine().startswith(("sparc", "parisc")):
        return ()
    try:
        packed = connected.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:  # there are more, or the kernel is older than this option
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)


def _is_loopback(host: str) -> bool:
    found = ipaddress.ip_address(host.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
