"""Ask the kernel who is at the other end of a connection. Statement WIRE-53."""

import ipaddress
import platform
import socket
import struct
import sys

from durus.sharing.address import HostPortAddress
from durus.sharing.roles import Peer

_UCRED = struct.Struct("iII")
"""The answer of Linux: process, user, group."""
_XUCRED = struct.Struct("IIh16I")
"""The answer of BSD and macOS: version, user, number of groups, groups."""
_SO_PEERGROUPS = 59
"""The socket option of Linux on most architectures; Python has no name for it."""


def peer_of(connected: socket.socket, address: object) -> Peer:
    """Return who has connected; OSError if the peer has already disconnected.

    Args:
        connected: the socket.
        address: the address that accept() returned with it.
    """
    if connected.family != socket.AF_UNIX:
        if not isinstance(address, tuple):
            return Peer("(already disconnected)", is_unix=False)
        host = _ip_of(address[0])
        return Peer(
            str(HostPortAddress(*address[:2])), is_unix=False, is_loopback=host.is_loopback, origin=_origin_of(host)
        )
    if hasattr(socket, "SO_PEERCRED"):
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        process, user, group = _UCRED.unpack(credentials)
        groups = frozenset((group, *_other_groups(connected)))
        name = f"process {process} of user {user}"
        return Peer(name, is_unix=True, user=user, groups=groups, origin=f"user {user}")
    if hasattr(socket, "LOCAL_PEERCRED"):
        return peer_of_xucred(connected.getsockopt(0, socket.LOCAL_PEERCRED, _XUCRED.size))
    return Peer("on this machine", is_unix=True)


def peer_of_xucred(credentials: bytes) -> Peer:
    """Return who has connected, from the answer of BSD or macOS."""
    _, user, count, *groups = _XUCRED.unpack(credentials)
    name, groups_of_user = f"a process of user {user}", frozenset(groups[:count])
    return Peer(name, is_unix=True, user=user, groups=groups_of_user, origin=f"user {user}")


def _other_groups(connected: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of the process that has connected; none if the system does not reveal them."""
    if sys.platform != "linux" or platform.machine().startswith(("sparc", "parisc")):
        return ()
    try:
        packed = connected.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:  # more groups than fit, or a kernel without this option
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)


def _ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(host.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _origin_of(host: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return whose connections those of a host are; one with IPv6 usually has 2^64 addresses."""
    if host.version == 4:
        return f"host {host}"
    return f"network {ipaddress.ip_network((int(host), 64), strict=False)}"
