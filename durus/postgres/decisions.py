"""What the engine's answers mean: what is invalid, and what is in conflict. Statements PG-10 to PG-24, and PG-62.

Pure: no statement is run here.
"""

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from durus.oid import oid_from_int, oids_from_ints
from durus.oid_array import OidSet
from durus.postgres.rows import MAX_OID, Row

MAX_CHANGES = 100_000
"""How many changes one sync reads; after more of them any oid is invalid."""
MAX_ACCESSED = 10_000
"""Of how many oids at most the engine is asked whether they have changed."""


class Seen(NamedTuple):
    """The commit that a client has seen last: everything up to it, and nothing after it."""

    tid: int
    commit_id: UUID
    epoch: UUID


class Turn(NamedTuple):
    """What the transaction of the engine that has the lock of the head knows."""

    tid: int
    """The number of the commit that it may make."""
    commit_id: UUID
    sweep_tid: int


class News(NamedTuple):
    """The answer to a sync: the row of `head`, the last commit, and what changed since the commit that was seen."""

    epoch: UUID
    log_from: int
    sweep_tid: int
    tid: int
    commit_id: UUID
    known_id: UUID | None
    """The id that the engine has for the commit that was seen."""
    tids: Sequence[int]
    oids: Sequence[int]
    """The first MAX_CHANGES changes: the oids, and in which commit each of them changed."""

    @property
    def seen(self) -> Seen:
        """What a client has seen that takes these news in."""
        return Seen(self.tid, self.commit_id, self.epoch)

    @property
    def is_cut(self) -> bool:
        """True if more may have changed than these news report."""
        return len(self.oids) >= MAX_CHANGES

    def after(self, tid: int) -> "News":
        """Return the news for a client that has seen this commit, or later ones than were asked for."""
        return self._only(lambda at: at > tid)

    def before(self, tid: int) -> "News":
        """Return what was committed before this commit."""
        return self._only(lambda at: at < tid)._replace(tid=min(self.tid, tid - 1))

    def _only(self, counts: Callable[[int], bool]) -> "News":
        if self.is_cut:
            return self
        kept = [index for index, at in enumerate(self.tids) if counts(at)]
        return self._replace(tids=[self.tids[index] for index in kept], oids=[self.oids[index] for index in kept])


def news_of(row: Sequence[Any]) -> News:
    """Return the news in the answer to a sync."""
    epoch, log_from, sweep_tid, tid, commit_id, known_id, tids, oids = row
    return News(epoch, log_from, sweep_tid, tid, commit_id, known_id, tids or (), oids or ())


class Candidate(NamedTuple):
    """A member of a group, as far as it decides whether it is in conflict."""

    rows: list[Row]
    new: Container[bytes]
    """The oids that were given to its client, and not used yet."""
    accessed: OidSet | None
    """What its transaction has used; None for any oid."""


class Existing(NamedTuple):
    """A row that a commit needs."""

    oid: int
    tid: int
    is_marked: bool
    """True if the pack has marked it as reached."""


def lost_commits(seen: Seen, news: News) -> bool:
    """Return whether the engine no longer has a commit that was seen, or is another one. [PG-13]"""
    if news.epoch != seen.epoch or news.tid < seen.tid:
        return True
    return news.log_from <= seen.tid and news.known_id != seen.commit_id


def is_behind(seen: Seen, news: News) -> bool:
    """Return whether a server lacks commits that were seen, which a standby still has to receive. [PG-15]"""
    return news.epoch == seen.epoch and news.tid < seen.tid


def invalid_oids(seen: Seen, news: News) -> list[bytes] | None:
    """Return the oids that others have changed, None if it can be any. [PG-11]"""
    if lost_commits(seen, news) or news.log_from > seen.tid or news.is_cut:
        return None
    return oids_from_ints(sorted(set(news.oids)))


def needed_oids(rows: Collection[Row]) -> list[int]:
    """Return the oids whose rows decide whether a commit is accepted."""
    needed = {row.oid for row in rows}
    for row in rows:
        needed.update(row.refs)
    return sorted(needed)


def conflicts(
    rows: Collection[Row],
    existing: Collection[Existing],
    sweep_tid: int,
    invalid: Collection[bytes],
    is_given: Callable[[bytes], bool],
) -> list[bytes]:
    """Return the oids because of which a commit is refused. [PG-22] [PG-23]

    Args:
        rows: what is committed.
        existing: the rows that there are for needed_oids().
        sweep_tid: rows up to this transaction that a pack has not marked are removed; 0 if no pack is removing.
        invalid: what others have changed and this client has not seen.
        is_given: says whether an oid was given to this client, and not used yet.
    """
    there = {each.oid for each in existing if each.is_marked or each.tid > sweep_tid}
    condemned = {each.oid for each in existing if each.oid not in there}
    stored = {row.oid for row in rows}
    unseen = set(invalid)
    found: set[bytes] = set()
    for row in rows:
        oid = oid_from_int(row.oid)
        if oid in unseen or row.oid in condemned or (row.oid in there) == is_given(oid):
            found.add(oid)
        found.update(oid_from_int(ref) for ref in row.refs if ref not in there and ref not in stored)
    return sorted(found)


def check_values(
    rows: Collection[Row],
    seen: Seen,
    accessed: Collection[int],
    is_given: Callable[[bytes], bool],
) -> tuple[object, ...]:
    """Return the values for the statement `check`, with which the engine finds what conflicts() would find, except for
    rows with oids that were given to the client: to add them fails. [PG-22]

    Args:
        rows: what is committed.
        seen: the last commit that the client has seen.
        accessed: the oids that the transaction has used.
        is_given: says whether an oid was given to this client, and not used yet.
    """
    stored = {row.oid for row in rows}
    there = [oid for oid in needed_oids(rows) if not (oid in stored and is_given(oid_from_int(oid)))]
    changed = [oid for oid in stored.union(accessed) if oid <= MAX_OID]
    tid = seen.tid
    return seen.epoch, tid, tid, seen.commit_id, tid, changed, len(there), there


def refusals(
    candidates: Mapping[int, Candidate],
    existing: Collection[Existing],
    sweep_tid: int,
    changed: Sequence[bytes],
) -> dict[int, list[bytes]]:
    """Return which members of a group are refused, by their numbers, and because of which oids. [PG-62]

    Args:
        candidates: the members by number, in the order in which they were accepted.
        existing: the rows that there are for the needed_oids() of all of them.
        sweep_tid: as for conflicts().
        changed: what others have changed since the members were accepted.
    """
    there = {each.oid: each for each in existing}
    refused: dict[int, list[bytes]] = {}
    for number, (rows, new, accessed) in candidates.items():
        found = {oid for oid in changed if accessed is None or oid in accessed}
        known = [there[oid] for oid in needed_oids(rows) if oid in there]
        found.update(conflicts(rows, known, sweep_tid, changed, new.__contains__))
        if found:
            refused[number] = sorted(found)
        else:
            there.update({row.oid: Existing(row.oid, sweep_tid + 1, True) for row in rows})
    return refused


def existing_of(rows: Collection[tuple[int, int, bool]]) -> list[Existing]:
    """Return the answer to the question for existing rows."""
    return [Existing(*row) for row in rows]
