"""From a connection that waits to a client that is served. Statements WIRE-53, WIRE2-42 and TLS-5."""

import asyncio
import functools
import logging
import socket
from typing import TYPE_CHECKING

from durus.error import LimitError
from durus.serving.client import ServedClient, Server
from durus.serving.complaints import Complaints
from durus.serving.handshake import Handshake
from durus.serving.limits import Places
from durus.serving.peer import peer_of
from durus.sharing.address import BACKLOG
from durus.sharing.roles import Access, Peer, Role

if TYPE_CHECKING:
    from durus.sharing.tls import Channel, ServerTls  # which imports ssl

_ACCEPTED_AT_ONCE = 16
"""How many connections a turn of the loop takes."""
_REFUSED_AT_ONCE = 16
"""How many connections for which there is no place are told so at the same time; others are closed."""
_SECONDS_WITHOUT_DESCRIPTORS = 1.0
"""How long no connection is accepted after there was no descriptor for one."""

_logger = logging.getLogger("durus")


class Door:
    """Accepts connections, and lets in those that may.

    Args:
        server: what serves them.
        access: who may connect, and what they may do.
        tls: what connections over TCP begin with; None if they do not use TLS.
        complaints: is told of those that can't be let in.
    """

    def __init__(self, server: Server, access: Access, tls: "ServerTls | None", complaints: Complaints) -> None:
        self._server = server
        self._access = access
        self._tls = tls
        self._complaints = complaints
        self._places = Places(server.limits)
        self._listening: list[socket.socket] = []
        """The sockets on which connections are accepted now."""
        self._handshakes: set[Handshake] = set()
        """The connections that are not clients yet."""

    def open(self, listening: list[socket.socket]) -> None:
        """Accept connections in the running loop."""
        for each in listening:
            each.setblocking(False)
            each.listen(BACKLOG)
            self._listening.append(each)
            self._accept_on(each)

    def close(self) -> None:
        """Accept no more connections, and drop those that are not clients yet."""
        for each in self._listening:
            asyncio.get_running_loop().remove_reader(each)
        self._listening = []
        while self._handshakes:
            self._handshakes.pop().abort()

    def descriptors(self) -> list[int]:
        """Return the descriptors of the connections that are not clients yet."""
        return [handshake.descriptor for handshake in self._handshakes]

    def _accept_on(self, listening: socket.socket) -> None:
        if listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Take the connections that wait, a few at a time."""
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connected, peer = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # there are no descriptors left, say: try again when some may have been closed
                self._complaints.note("no connection can be accepted", error)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listening)
                loop.call_later(_SECONDS_WITHOUT_DESCRIPTORS, self._accept_on, listening)
                return
            try:
                self._let_in(connected, peer)
            except OSError as error:  # it has gone already
                connected.close()
                self._complaints.note("a connection could not be set up", error)

    def _let_in(self, connected: socket.socket, address: object) -> None:
        """Serve who has connected, if that may connect. [WIRE-53]"""
        peer = peer_of(connected, address)
        role = self._access.role_of(peer)
        tls = None if peer.is_unix else self._tls
        if tls is not None and (role is not None or tls.roles is not None):
            if len(self._handshakes) >= (self._server.limits.clients or 0):
                connected.close()
                self._complaints.note("a connection is refused", LimitError("too many TLS handshakes are in progress"))
                return
            on_end = functools.partial(self._let_in_after, peer)
            self._handshakes.add(Handshake(connected, tls.new_channel(), self._server.stall_timeout, on_end))
        elif role is not None:
            self._admit(connected, peer, role)
        else:
            connected.close()
            _logger.warning("client %s is refused: the options --allow-uid and --allow-gid do not name it", peer.name)

    def _let_in_after(self, peer: Peer, handshake: Handshake, reason: str | None) -> None:
        """Serve who has completed a handshake, if its certificate has a role. [TLS-5]"""
        self._handshakes.discard(handshake)
        if reason is None and self._tls is not None:
            names, by_name = handshake.names, self._tls.roles
            shown = sorted(names if by_name is None else names & by_name.keys())
            if shown:
                peer = peer._replace(name=f"{peer.name} ({shown[0]})")
            role = self._access.role_of(peer._replace(names=names), by_name)
            if role is not None:
                self._admit(handshake.socket, peer, role, handshake.channel)
                return
            handshake.refuse()
            found = ", ".join(sorted(names)) or "it has no DNS, URI or email in its subjectAltName"
            reason = f"the list of roles has no name of its certificate: {found}"
        if reason:
            _logger.warning("client %s is refused: %s", peer.name, reason)
        else:
            _logger.info("client %s disconnected before the end of its TLS handshake", peer.name)

    def _admit(self, connected: socket.socket, peer: Peer, role: Role, channel: "Channel | None" = None) -> None:
        """Serve a client if there is a place for it, or tell it that there is none. [WIRE2-42]"""
        server = self._server
        try:
            place = self._places.take(peer, role)
        except LimitError as error:
            server.counts.refused += 1
            self._complaints.note("a connection is refused", LimitError(f"client {peer.name}: {error}"))
            if sum(client.refusal is not None for client in server.clients) < _REFUSED_AT_ONCE:
                ServedClient(server, connected, peer, role, error, channel)
            else:
                connected.close()
            return
        try:
            ServedClient(server, connected, peer, role, place, channel)
        except BaseException:
            place.give_back()
            raise
