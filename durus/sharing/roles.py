"""What each client of a server may do. Statements WIRE-50 to WIRE-53.

There are no sockets here: serving/peer.py finds out who a peer is.
"""

import enum
import os
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from durus.error import ArgumentError

MayStop = Literal["user", "local", "anyone"]
"""Who may stop a server and start a pack if there is no list of users. [WIRE-52]"""


class Role(enum.IntEnum):
    """What a client may do; each role includes those before it. [WIRE-50]"""

    READ = 1
    WRITE = 2
    ADMIN = 3


ROLES = {role.name.lower(): role for role in Role}
"""The roles, by name."""


class Peer(NamedTuple):
    """The other end of a connection, as far as the kernel knows it."""

    name: str
    """What the log calls it."""
    is_unix: bool
    """True on a Unix socket."""
    is_loopback: bool = False
    """True on TCP if the peer is on this machine or connects through a tunnel that ends here."""
    user: int | None = None
    """The number of its user; None if the kernel does not tell it."""
    groups: frozenset[int] = frozenset()
    """The numbers of its groups."""


class Access:
    """Gives each peer its role.

    Args:
        users: the roles of users on a Unix socket, by number. With these or `groups`, all other peers are refused.
        groups: the roles of groups, by number. A peer has the highest of its roles.
        may_stop: who may stop the server and start a pack: "user" is the user of the server, and root, on a Unix
            socket; "local" adds clients on loopback; "anyone" adds all clients that may commit.

    Raises:
        ArgumentError: `may_stop` is none of these.
    """

    def __init__(
        self,
        users: Mapping[int, Role] | None = None,
        groups: Mapping[int, Role] | None = None,
        may_stop: MayStop = "local",
    ) -> None:
        if may_stop not in get_args(MayStop):
            raise ArgumentError(f"may_stop is {may_stop!r}; it must be 'user', 'local' or 'anyone'")
        self._users = dict(users or {})
        self._groups = dict(groups or {})
        self._may_stop = may_stop

    @property
    def is_limited(self) -> bool:
        """True if only listed users and groups may connect."""
        return bool(self._users or self._groups)

    def role_of(self, peer: Peer) -> Role | None:
        """Return the role of a peer; None if the peer is refused. [WIRE-52] [WIRE-53]"""
        if peer.is_unix and peer.user in (0, os.geteuid()):
            return Role.ADMIN
        role = self._listed_role(peer) if self.is_limited else Role.WRITE
        if role == Role.WRITE and (
            self._may_stop == "anyone" or (self._may_stop == "local" and peer.is_loopback and not self.is_limited)
        ):
            return Role.ADMIN
        return role

    def _listed_role(self, peer: Peer) -> Role | None:
        if not peer.is_unix or peer.user is None:
            return None
        found = [self._groups[group] for group in peer.groups if group in self._groups]
        if peer.user in self._users:
            found.append(self._users[peer.user])
        return max(found, default=None)
