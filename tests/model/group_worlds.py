"""Session cores over one engine, single steps of their clients in any order, and what the rules say of the results.

    python -m tests.model.group_worlds --worlds N --seed S

The engine keeps all that was committed, in order. So it is known of each transaction whether what it has read was ever
there together, and of each conflict whether there was one.
"""

import argparse
import itertools
import random
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from durus.error import DisconnectedError, DurusError, OutcomeUnknownError, WriteConflictError
from durus.oid import oid_from_int
from durus.records.record import pack_record, unpack_record
from durus.sharing.session import SessionCore
from tests.model.engine import Engine, EngineStorage, EngineWrite, Records
from tests.model.nemesis import Figures

OIDS = [oid_from_int(number) for number in range(4)]
OFTEN = 3
"""How much more probable the steps of a core are than those of its clients."""
FAULTS = (*[""] * 8, "lost and stored", "lost and not stored")
_versions = itertools.count(1)


def record(oid: bytes) -> bytes:
    """Return a record that there was never before."""
    return pack_record(oid, str(next(_versions)).encode(), b"")


class Violation(AssertionError):
    """What must not happen."""


@dataclass(eq=False)
class Client:
    """A program: its transaction, and the states that it has loaded."""

    core: "Core"
    accepts: bool
    """It compares the list of its turn itself, and the core does not know what it has used."""

    def __post_init__(self) -> None:
        self.session = self.core.core.connect()
        self.states: Records = {}
        self.reads: Records = {}
        self.writes: Records = {}
        self.new: bytes | None = None
        """An oid that was given to it."""
        self.send: Callable[[], None] | None = None
        """What it does in its turn, while it has that."""
        self.is_busy = False
        self.is_begun = False
        self.has_snapshot = False
        self.at_least = 0
        """Its transaction must see this transaction of the engine."""
        self.state_of = 0
        """The transaction of the engine that its core knew of when it synced."""
        self.local_since = 0

    def sync(self) -> None:
        """Begin a transaction, or continue with this one after a load met something newer."""
        self.is_busy = True
        at_least = self.core.engine.tid
        self.core.core.when_fresh(lambda error: self._synced(error, at_least))

    def _synced(self, error: DurusError | None, at_least: int) -> None:
        self.is_busy = False
        if error is not None:
            self.end()
            return
        used = self.reads.keys() | self.writes.keys()
        since, local = self.state_of, self.local_since
        invalid = self.drop(self.session.sync())
        conflicts = used if invalid is None else used & set(invalid)
        if conflicts and self.is_begun:
            self.core.require_reason(self, conflicts, since, local)
            self.end()
            return
        self.is_begun = True
        self.at_least = max(self.at_least, at_least)

    def take_snapshot(self) -> None:
        """Begin a transaction that only reads, and reads one state. [PG-66]"""
        self.at_least = self.core.engine.tid
        self.drop(self.session.take_snapshot())
        self.is_begun = self.has_snapshot = True

    def drop(self, invalid: Collection[bytes] | None) -> Collection[bytes] | None:
        """Forget the states that are out of date."""
        for oid in list(self.states) if invalid is None else invalid:
            self.states.pop(oid, None)
        self.state_of = self.core.storage.seen
        self.local_since = self.core.first_undurable()
        return invalid

    def end(self) -> None:
        """End the transaction, whatever came of it."""
        if self.has_snapshot:
            self.session.drop_snapshot()
        self.is_begun = self.has_snapshot = False
        self.reads, self.writes = {}, {}

    def read(self, oid: bytes) -> None:
        if oid in self.writes:
            return
        if oid not in self.states and self.has_snapshot:
            self.states[oid] = self.session.load_from_snapshot(oid)
        elif oid not in self.states:
            if self.session.must_wait(oid):
                return
            found = self.session.load(oid)
            if found is None:
                self.sync()
                return
            self.states[oid] = found
        self.reads[oid] = self.states[oid]

    def finish_reading(self) -> None:
        """End a transaction without changes."""
        if self.has_snapshot:
            self.core.world.figures.counts["snapshots"] += 1
        self.core.world.check_reads(self.reads, self.at_least)
        self.end()

    def commit(self) -> None:
        self.is_busy = True
        records = dict(self.writes)
        accessed = frozenset(self.reads) | frozenset(records)
        since, local = self.state_of, self.local_since
        self.core.accepted.append(set(records))
        place = len(self.core.accepted) - 1

        def done(invalid: Collection[bytes] | None, error: DurusError | None) -> None:
            self.is_busy = False
            if self.session.has_lost_track:
                invalid = self.session.sync()
            self.core.undurable.discard(place)
            if error is None:
                self.core.world.note_stored(records, self.reads)
                told = self.drop(invalid)
                if told is not None and set(told) & records.keys():
                    raise Violation("a client is told that its own commit is a change of others")
                self.states.update(records)
                self.at_least = self.core.storage.seen
                self.end()
                self.is_begun = True  # the next one begins without a sync
            else:
                self.drop(invalid)
                for oid in records:
                    self.states.pop(oid, None)
                if isinstance(error, WriteConflictError):
                    self.core.world.figures.counts["conflicts"] += 1
                    self.core.require_reason(self, accessed, since, local)
                elif not isinstance(error, OutcomeUnknownError | DisconnectedError):
                    raise Violation(f"a commit has failed: {error}")
                else:
                    self.states = {}
                    self.core.replace(self)
                self.end()

        self.core.undurable.add(place)
        if self.accepts:
            self._take_turn(records, done)
        else:
            self.session.commit_whole(self.session.serial, accessed, records, done)

    def _take_turn(self, records: Records, done: Callable[[Collection[bytes] | None, DurusError | None], None]) -> None:
        used = self.reads.keys() | self.writes.keys()

        def granted(invalid: list[bytes] | None) -> None:
            if invalid is None or used & set(invalid):
                self.session.give_up_commit()
                done(invalid, WriteConflictError(sorted(used)))
            else:
                self.drop(invalid)
                self.send = lambda: self.session.commit(records, outcome)

        def outcome(error: DurusError | None) -> None:
            """Try again, as version 1 does, after a conflict with nothing that this client has used."""
            if isinstance(error, WriteConflictError):
                invalid = self.session.sync()
                if invalid is None or used & set(invalid):
                    done(invalid, error)
                else:
                    self.drop(invalid)
                    self._take_turn(records, done)
            else:
                done([], error)

        self.session.begin_commit(granted, abandoned=lambda: done(None, WriteConflictError()))

    def send_commit(self) -> None:
        """Send the records, in the turn."""
        send, self.send = self.send, None
        assert send is not None
        send()


@dataclass(eq=False)
class Core:
    world: "World"
    engine: Engine

    def __post_init__(self) -> None:
        self.storage = EngineStorage(self.engine)
        self.core = SessionCore(self.storage)
        self.accepted: list[set[bytes]] = []
        """What its clients wanted to store, in order."""
        self.undurable: set[int] = set()
        """Those of which the outcome is not known."""
        self.clients = [Client(self, accepts=number == 2) for number in range(3)]
        self.write: tuple[EngineWrite, Callable[[DurusError | None], None]] | None = None
        self.is_locked = False
        self.ended: list[DurusError | None] = []

    def first_undurable(self) -> int:
        return min(self.undurable, default=len(self.accepted))

    def replace(self, client: Client) -> None:
        """Connect again, as a client does that was told that the connection is lost."""
        client.session.close()
        client.session = self.core.connect()
        client.new = None
        client.sync()

    def require_reason(self, client: Client, used: "frozenset[bytes] | set[bytes]", since: int, local: int) -> None:
        """Raise Violation unless something was changed, by others or here, that a transaction has used."""
        changed = self.engine.changed_after(since)
        for records in self.accepted[local:]:
            changed |= records
        own = client.writes.keys() if self.accepted and self.accepted[-1] == client.writes.keys() else set()
        if not used & changed and not (client.accepts and changed - own):
            raise Violation(f"a conflict on {used}, of which nothing has changed")

    def steps(self, chance: random.Random) -> Iterator[Callable[[], object]]:
        """Yield what can happen here next."""
        for client in self.clients:
            if client.send is not None:
                yield client.send_commit
            if client.is_busy:
                continue
            if not client.is_begun:
                yield client.sync
                yield client.take_snapshot
                continue
            oid = chance.choice(OIDS)
            for _ in range(2):
                yield lambda client=client, oid=oid: client.read(oid)  # type: ignore[misc]  # mypy infers no defaults
            if not client.has_snapshot:
                yield lambda client=client, oid=oid: self.change(client, oid)  # type: ignore[misc]
            if client.writes:
                yield client.commit
            elif client.reads:
                yield client.finish_reading
        for step in self.own_steps(chance):
            yield from [step] * OFTEN

    def own_steps(self, chance: random.Random) -> Iterator[Callable[[], object]]:
        """Yield what can happen here next without the clients."""
        if self.core.is_news_due:
            yield self.core.take_news
        if self.core.has_ready_commits:
            yield self.begin_write
        if self.write is not None and not self.ended:
            yield (lambda: self.store(chance.choice(FAULTS))) if self.is_locked else self.lock
        if self.ended:
            yield self.finish_write

    def change(self, client: Client, oid: bytes) -> None:
        client.read(oid)
        if oid in client.reads and not client.is_busy:
            client.writes[oid] = record(oid)

    def begin_write(self) -> None:
        write = self.core.begin_write()
        assert self.storage.under_way is not None
        self.write = self.storage.under_way, write.finish

    def lock(self) -> None:
        assert self.write is not None
        self.is_locked = self.write[0].lock()

    def store(self, fault: str) -> None:
        assert self.write is not None
        try:
            self.write[0].store(fault, is_stored="not" not in fault)
        except DurusError as error:
            self.ended = [error]
        else:
            self.ended = [None]
        self.is_locked = False

    def finish_write(self) -> None:
        assert self.write is not None
        (error,), self.ended = self.ended, []
        (_, finish), self.write = self.write, None
        finish(error)


class World:
    """Two cores, and whoever uses the engine itself."""

    def __init__(self, seed: int, figures: Figures) -> None:
        self.figures = figures
        self.chance = random.Random(seed)
        self.engine = Engine()
        self.engine.commit({oid: record(oid) for oid in OIDS})
        self.stored: list[tuple[Records, Records]] = []
        """What was acknowledged: the records, and what its transaction had read."""
        self.cores = [Core(self, self.engine) for _ in range(2)]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            possible = [step for core in self.cores for step in core.steps(self.chance)]
            if self.engine.holder is None and not self.chance.randrange(4):
                possible.append(self.commit_directly)
            self.chance.choice(possible)()
        self.drain()
        self.check_commits()

    def commit_directly(self) -> None:
        oids = self.chance.sample(OIDS, self.chance.randrange(1, 3))
        self.engine.commit({oid: record(oid) for oid in oids})

    def drain(self) -> None:
        """Let everything end that is under way."""
        for _ in range(1000):
            if not any(client.is_busy for core in self.cores for client in core.clients):
                return
            for core in self.cores:
                for client in core.clients:
                    if client.send is not None:
                        client.send_commit()
                for step in list(core.own_steps(self.chance)):
                    step()
        raise Violation("somebody waits for ever")

    def note_stored(self, records: Records, reads: Records) -> None:
        self.figures.counts["commits"] += 1
        self.stored.append((records, reads))

    def states(self) -> Iterator[tuple[int, Records]]:
        """Yield the state after each commit, and the number of its transaction of the engine."""
        state: Records = {}
        for number, commits in enumerate(self.engine.log, 1):
            for records in commits:
                state = {**state, **records}
                yield number, state

    def check_reads(self, reads: Records, at_least: int) -> None:
        self.figures.counts["readers"] += 1
        for number, state in self.states():
            if number >= at_least and reads.items() <= state.items():
                return
        shown = {oid[-1]: unpack_record(each)[1] for oid, each in reads.items()}
        raise Violation(f"{shown} was never there together, after transaction {at_least}")

    def check_commits(self) -> None:
        """Each commit that was acknowledged is there, once, and has read what was there right before it."""
        places: dict[bytes, Records] = {}
        before: Records = {}
        for _, state in self.states():
            for each in state.values():
                places.setdefault(each, before)
            before = state
        if len(places) != sum(len(records) for commits in self.engine.log for records in commits):
            raise Violation("a commit was stored twice")
        for records, reads in self.stored:
            for each in records.values():
                if each not in places:
                    raise Violation("a commit that was acknowledged is not there")
                if not reads.items() <= places[each].items():
                    raise Violation("an update was lost: a commit has read what was not there any more")


def explore(worlds: int, steps: int, seed: int) -> Figures:
    """Run so many worlds; return what came of them, with the seed of the first that violates a rule."""
    figures = Figures()
    for number in range(seed, seed + worlds):
        try:
            World(number, figures).run(steps)
        except Violation as violation:
            figures.violations.append(f"--seed {number}: {violation}")
            break
    figures.counts["worlds"] = worlds
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    figures = explore(options.worlds, options.steps, options.seed)
    print(figures)
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
