"""How much the clients of a server may have. Statements WIRE2-42 and CMD-28.

No sockets and no clocks here: callers pass times in.
"""

import resource
from collections import Counter
from typing import NamedTuple

from durus.error import ArgumentError, LimitError
from durus.sharing.protocol import MAX_COMMIT
from durus.sharing.roles import Peer, Role

MAX_MEMORY = 5 << 30
"""How many bytes are held for one client by default: the longest record of a file fits."""
_OTHER_FILES = 32
"""How many descriptors are left for files, the log and connections that are refused."""
_MAX_CLIENTS = 1 << 20
_BURST_SECONDS = 1.0
"""A client that was silent may use what it has saved in this many seconds at once."""


def clients_by_default() -> int:
    """Return for how many connections the process may have descriptors, with some left for its files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_CLIENTS
    return min(max(soft - _OTHER_FILES, soft // 2, 1), _MAX_CLIENTS)


class Limits(NamedTuple):
    """How much the clients of a server may have. [CMD-28]"""

    clients: int | None = None
    """How many connections there may be; None for as many as the process may have files open, less a few."""
    clients_by_peer: int = 0
    """How many of them one host, or one user on a Unix socket, may have; 0 for no limit."""
    rate: int = 0
    """How many bytes a connection may send and get in a second, on average; 0 for no limit."""
    unused_oids: int = 1 << 24
    """How many oids a client may have asked for and not used. [TXN-24]"""
    commit: int = MAX_COMMIT
    """How many bytes the records of a commit may have."""
    memory: int = MAX_MEMORY
    """How many bytes the server holds for a connection: of a commit that is not complete, of answers not read yet."""

    def checked(self) -> "Limits":
        """Return the limits, with a number for `clients`. ArgumentError if one is out of its range."""
        clients = clients_by_default() if self.clients is None else self.clients
        for name, lowest, highest in (
            ("clients_by_peer", 0, None),
            ("rate", 0, None),
            ("unused_oids", 1, None),
            ("commit", 1, MAX_COMMIT),
            ("memory", 1, None),
        ):
            _check(name, getattr(self, name), lowest, highest)
        _check("clients", clients, 1, None)
        return self._replace(clients=clients, commit=min(self.commit, self.memory))


def _check(name: str, value: object, lowest: int, highest: int | None) -> None:
    if type(value) is not int or value < lowest or (highest is not None and value > highest):
        upper = "" if highest is None else f", and at most {highest}"
        raise ArgumentError(f"the limit {name} is {value!r}; it must be a whole number of at least {lowest}{upper}")


class Places:
    """The places for connections, one of which is kept for a client that may stop the server.

    Args:
        limits: checked limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()
        """How many places the peers have that have any, by their origin."""
        self._is_reserve_taken = False

    def take(self, peer: Peer, role: Role) -> "Place":
        """Return a place, or the one that is kept for an ADMIN if there is no other. LimitError if there is none."""
        limits, taken = self._limits, self._taken
        if taken.total() >= (limits.clients or 0):
            problem = f"no place for one more connection: there are {taken.total()}, and --max-clients allows no more"
        elif limits.clients_by_peer and taken[peer.origin] >= limits.clients_by_peer:
            problem = (
                f"no place for one more connection of {peer.origin}: it has {taken[peer.origin]}, and "
                "--max-clients-by-peer allows no more"
            )
        else:
            taken[peer.origin] += 1
            return Place(self, peer.origin, None)
        error = LimitError(f"{problem}; close connections, or start the server with a higher limit")
        if role < Role.ADMIN or self._is_reserve_taken:
            raise error
        self._is_reserve_taken = True
        return Place(self, peer.origin, error)

    def _give_back(self, place: "Place") -> None:
        if place.problem is not None:
            self._is_reserve_taken = False
            return
        self._taken[place.origin] -= 1
        if not self._taken[place.origin]:
            del self._taken[place.origin]


class Place:
    """A place of a connection.

    Args:
        places: those of the server.
        origin: whose place it is.
        problem: why it is the one that is kept, on which the database can't be used; None if it is not that.
    """

    def __init__(self, places: Places, origin: str, problem: LimitError | None) -> None:
        self._places: Places | None = places
        self.origin = origin
        self.problem = problem

    def give_back(self) -> None:
        """Leave the place to others; more calls do nothing."""
        places, self._places = self._places, None
        if places is not None:
            places._give_back(self)


class Throttle:
    """Tells how long a connection must pause, so that it keeps to a rate.

    Args:
        rate: bytes in a second, at least 1.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._paid_until = 0.0
        """The time at which all bytes so far were due."""

    def note(self, size: int, now: float) -> float:
        """Note bytes that were sent or received; return how many seconds to pause."""
        self._paid_until = max(self._paid_until, now - _BURST_SECONDS) + size / self._rate
        return max(0.0, self._paid_until - now)
