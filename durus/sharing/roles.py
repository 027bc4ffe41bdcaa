"""What each client of a server may do. Statements WIRE-50 to WIRE-53, TLS-5 to TLS-7.

There are no sockets here: serving/peer.py and sharing/tls.py find out who a peer is.
"""

import enum
import os
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from durus.error import ArgumentError, TlsError

MayStop = Literal["user", "local", "anyone"]
"""Who may stop a server and start a pack if there is no list of users. [WIRE-52]"""


class Role(enum.IntEnum):
    """What a client may do; each role includes those before it. [WIRE-50]"""

    READ = 1
    WRITE = 2
    ADMIN = 3


ROLES = {role.name.lower(): role for role in Role}
"""The roles, by name."""


NAME_TYPES = ("DNS", "URI", "email")
"""The types of names in certificates that can have a role. [TLS-6]"""


class Peer(NamedTuple):
    """The other end of a connection, as far as the kernel and its certificate show."""

    name: str
    """What the log calls it."""
    is_unix: bool
    """True on a Unix socket."""
    is_loopback: bool = False
    """True on TCP if the peer is on this machine or connects through a tunnel that ends here."""
    user: int | None = None
    """The number of its user; None if the kernel does not reveal it."""
    groups: frozenset[int] = frozenset()
    """The numbers of its groups."""
    names: frozenset[str] = frozenset()
    """The names in its certificate. [TLS-6]"""
    origin: str = "unknown"
    """Whose connections are counted together: those of one host, or of one user on a Unix socket. [CMD-28]"""


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

    def role_of(self, peer: Peer, by_name: Mapping[str, Role] | None = None) -> Role | None:
        """Return the role of a peer; None if the peer is refused. [WIRE-52] [WIRE-53] [TLS-5]

        Args:
            peer: the peer.
            by_name: the roles of names in certificates, if there is a list of them; they decide on TCP.
        """
        if peer.is_unix and peer.user in (0, os.geteuid()):
            return Role.ADMIN
        is_listed = self.is_limited
        if by_name is not None and not peer.is_unix:
            is_listed = True
            role = max((by_name[name] for name in peer.names if name in by_name), default=None)
        else:
            role = self._listed_role(peer) if is_listed else Role.WRITE
        if role == Role.WRITE and (
            self._may_stop == "anyone" or (self._may_stop == "local" and peer.is_loopback and not is_listed)
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


def read_names(text: str, where: str) -> dict[str, Role]:
    """Return the roles of names in certificates. [TLS-5]

    Args:
        text: lines of a name and a role, such as `URI:urn:shop:app write`; empty lines, and those that begin with `#`.
        where: the name of the file, for errors.

    Raises:
        TlsError: a line is wrong, or there is none.
    """
    roles: dict[str, Role] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            try:
                name, role = _name_and_role(words)
                if name in roles:
                    raise TlsError(f"{name!r} occurs twice")
            except TlsError as error:
                raise TlsError(f"{where}, line {number}: {error}") from None
            roles[name] = role
    if not roles:
        raise TlsError(f"{where}: it has no line such as `URI:urn:shop:app write`, so nobody could connect")
    return roles


def _name_and_role(words: list[str]) -> tuple[str, Role]:
    if len(words) != 2:
        raise TlsError(f"expected a name and a role, such as `URI:urn:shop:app write`, and found {len(words)} words")
    kind, _, name = words[0].partition(":")
    if kind not in NAME_TYPES or not name:
        raise TlsError(
            f"{words[0]!r} is not a name with its type; expected {', '.join(t + ':...' for t in NAME_TYPES)}"
        )
    if "*" in name or not (name.isascii() and name.isprintable()):
        raise TlsError(f"{words[0]!r} has a character that is not allowed: names are ASCII, and are not patterns")
    if words[1] not in ROLES:
        raise TlsError(f"{words[1]!r} is not a role; the roles are {', '.join(ROLES)}")
    return f"{kind}:{name.lower() if kind == 'DNS' else name}", ROLES[words[1]]
