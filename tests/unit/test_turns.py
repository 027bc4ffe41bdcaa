"""Who has the turn, and for how long, on a clock that the tests set."""

import pytest

from durus.connection import Connection
from durus.error import DurusError, WriteConflictError
from durus.persistent_dict import PersistentDict
from durus.records.record import pack_record
from durus.shared_storage import SharedStorage
from durus.sharing.protocol import Commit, NewOids, encode_commit, encode_request
from durus.sharing.session import Session, SessionCore
from durus.sharing.turns import BYTES_PER_SECOND, EXCLUSIVE_SECONDS, Standing, Turn, Turns
from durus.storage import MemoryStorage
from tests.in_memory_server import InMemoryConnection, InMemoryServer

ROOT = bytes(8)
MOMENT = 0.001


class Clock:
    """The time of a core, and the core."""

    def __init__(self) -> None:
        self.now = 0.0
        storage = MemoryStorage()
        with Connection(storage) as connection:
            connection.get_root()["x"] = PersistentDict()
            connection.commit()
        self.core = SessionCore(storage, lambda: self.now)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.core.pass_turn_on()

    def client(self) -> "Client":
        return Client(self.core)


class Client:
    """A session that commits the root, in steps."""

    def __init__(self, core: SessionCore) -> None:
        self.session: Session = core.connect()
        self._core = core
        self.lists: list[list[bytes] | None] = []
        self.outcomes: list[DurusError | None] = []

    def ask(self) -> "Client":
        self.session.begin_commit(self.lists.append)
        return self

    def give(self, oid: bytes = ROOT) -> None:
        self.session.commit({oid: pack_record(oid, b"data", b"")}, self.outcomes.append)
        if self._core.has_ready_commits:
            write = self._core.begin_write()
            write.write()
            write.finish(None)

    def give_whole(self) -> None:
        """Send a commit of the root as a whole, without a turn."""
        record = pack_record(ROOT, b"data", b"")
        self.session.commit_whole(
            self.session.serial, {ROOT}, {ROOT: record}, lambda invalid, error: self.outcomes.append(error)
        )

    @property
    def is_refused(self) -> bool:
        return isinstance(self.outcomes[-1], WriteConflictError)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.spec("TXN-43", "TXN-44", "TXN-47")
def test_a_commit_that_comes_as_a_whole_counts_as_one_that_had_a_turn(clock: Clock) -> None:
    client = clock.client()
    standing = client.session._standing
    standing.losses, standing.has_stalled = 3, True
    client.give_whole()
    assert (standing.losses, standing.has_stalled, standing.has_committed) == (0, False, True)
    assert clock.core.has_ready_commits
    assert not clock.core.is_settled


@pytest.mark.spec("TXN-46", "TXN-47")
def test_a_commit_that_comes_as_a_whole_waits_for_an_exclusive_turn(clock: Clock) -> None:
    holder, other = clock.client(), clock.client()
    assert clock.core.is_settled
    holder.session.begin_commit(holder.lists.append, lease=10.0)
    assert clock.core.is_turn_exclusive
    assert clock.core.is_settled, "nobody waits for the turn"
    other.give_whole()
    assert not clock.core.has_ready_commits
    assert not clock.core.is_settled
    holder.session.give_up_commit()
    assert not clock.core.is_turn_exclusive
    assert clock.core.has_ready_commits


@pytest.mark.spec("TXN-42")
def test_a_turn_is_passed_on_after_a_while_without_data_and_not_before(clock: Clock) -> None:
    slow, other = clock.client().ask(), clock.client().ask()
    clock.tick(EXCLUSIVE_SECONDS - MOMENT)
    assert clock.core.turn is slow.session
    assert other.lists == []
    clock.tick(2 * MOMENT)
    assert clock.core.turn is other.session
    assert other.lists == [[]]


@pytest.mark.spec("TXN-42")
def test_a_turn_lasts_for_longer_when_data_comes(clock: Clock) -> None:
    sender, other = clock.client().ask(), clock.client().ask()
    sender.session.note_received(BYTES_PER_SECOND)
    clock.tick(1 + EXCLUSIVE_SECONDS - MOMENT)
    assert other.lists == []
    clock.tick(2 * MOMENT)
    assert other.lists == [[]]


@pytest.mark.spec("TXN-42")
def test_a_turn_that_nobody_waits_for_lasts_until_somebody_does(clock: Clock) -> None:
    slow = clock.client().ask()
    clock.tick(100)
    assert clock.core.turn is slow.session
    other = clock.client().ask()
    assert other.lists == [[]]
    other.session.give_up_commit()
    slow.give()
    assert slow.outcomes == [None]


@pytest.mark.spec("TXN-42", "TXN-21")
def test_a_commit_that_comes_late_is_a_conflict_only_if_another_one_was_taken(clock: Clock) -> None:
    slow, other = clock.client().ask(), clock.client().ask()
    clock.tick(1)
    other.give()
    slow.give()
    assert other.outcomes == [None]
    assert slow.is_refused
    slow.session.sync()
    slow.ask()
    other.ask()
    clock.tick(1)
    other.session.give_up_commit()
    slow.give()
    assert slow.outcomes[1:] == [None]


def client_that_stalled(clock: Clock, other: Client) -> Client:
    """Return a client without exclusive time, after its cost has been made up for."""
    slow = clock.client().ask()
    other.ask()
    clock.tick(1)
    slow.session.give_up_commit()
    other.give()
    for _ in range(100):
        other.ask().give()
    slow.session.sync()
    return slow


@pytest.mark.spec("TXN-42")
def test_a_late_commit_waits_until_the_turn_of_the_next_client_is_over(clock: Clock) -> None:
    other = clock.client()
    slow = client_that_stalled(clock, other)
    slow.ask()
    other.ask()
    slow.give()
    assert slow.outcomes == []
    other.give()
    assert other.outcomes[-1] is None
    assert slow.is_refused


@pytest.mark.spec("TXN-42")
def test_a_late_commit_is_taken_when_the_next_client_stalls_too(clock: Clock) -> None:
    other = clock.client()
    slow = client_that_stalled(clock, other)
    slow.ask()
    other.ask()
    slow.give()
    assert slow.outcomes == []
    clock.tick(1)
    write = clock.core.begin_write()
    write.write()
    write.finish(None)
    assert slow.outcomes == [None]
    other.give()
    assert other.is_refused


@pytest.mark.spec("TXN-42")
def test_records_of_turns_that_were_passed_on_take_bounded_memory(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = clock.client().ask(), clock.client().ask()
    clock.tick(1)
    first, second, third = (pack_record(oid, b"x" * 60, b"") for oid in (ROOT, *slow.session.new_oids(2)))
    monkeypatch.setattr("durus.sharing.session.MAX_WAITING", len(first))
    slow.session.store(ROOT, first)
    assert slow.session._staged == {ROOT: first}
    for record in second, third:
        slow.session.store(record[:8], record)
        assert slow.session._staged == {}
    other.session.give_up_commit()
    slow.session.commit({}, slow.outcomes.append)
    assert slow.is_refused


@pytest.mark.spec("TXN-43")
def test_a_client_that_stalled_has_no_exclusive_time_until_a_commit_of_it_is_taken(clock: Clock) -> None:
    other = clock.client()
    slow = client_that_stalled(clock, other)
    slow.ask()
    other.ask()
    assert clock.core.turn is other.session
    other.session.give_up_commit()
    slow.give()
    assert slow.outcomes == [None]
    slow.ask()
    other.ask()
    assert clock.core.turn is slow.session


def replaced(clock: Clock, clients: list[Client]) -> list[Client]:
    """Let clients come back as new ones."""
    for client in clients:
        client.session.close()
    return [clock.client().ask() for _ in clients]


@pytest.mark.spec("TXN-43")
@pytest.mark.parametrize("hogs", [12, 300])
@pytest.mark.parametrize("flows", [False, True], ids=["silent", "sending"])
def test_clients_that_take_turns_and_come_again_cost_a_commit_a_hundredth_of_a_second(hogs: int, flows: bool) -> None:
    clock = Clock()
    good = clock.client()
    attackers = [clock.client().ask() for _ in range(hogs)]
    waits: list[float] = []
    for _ in range(200):
        began = clock.now
        good.ask()
        while len(good.lists) <= len(waits):
            for attacker in attackers:
                attacker.session.note_received(int(BYTES_PER_SECOND * 0.02) if flows else 0)
            clock.tick(0.01)
            if clock.now - began > 10:  # the server drops them
                attackers = replaced(clock, attackers)
        waits.append(clock.now - began)
        good.give()
        attackers = replaced(clock, attackers)
    assert good.outcomes == [None] * 200
    assert sum(waits) < (12 if flows else 1) + 200 * 0.02


@pytest.mark.spec("TXN-44")
def test_a_client_that_lost_twice_gets_its_turn_for_longer(clock: Clock) -> None:
    """Its data takes a second, and others commit all the time."""
    slow, other = clock.client(), clock.client()
    for _ in range(2):
        slow.ask()
        other.ask()
        clock.tick(1)
        other.give()
        slow.give()
        assert slow.is_refused
        slow.session.sync()
    slow.ask()
    other.ask()
    clock.tick(1)
    assert clock.core.turn is slow.session
    slow.give()
    assert slow.outcomes[-1] is None


@pytest.mark.spec("TXN-44")
def test_longer_turns_that_are_not_used_are_paid_back_before_there_is_another(clock: Clock) -> None:
    slow, second, other = clock.client(), clock.client(), clock.client()
    for client in (slow, second) * 2:
        client.ask()
        other.ask()
        clock.tick(1)
        other.give()
        client.give()
        client.session.sync()
    slow.ask()
    other.ask()
    clock.tick(1.9)
    assert clock.core.turn is slow.session
    clock.tick(0.2)
    assert clock.core.turn is other.session
    other.give()
    second.ask()
    other.ask()
    assert clock.core.turn is other.session
    other.give()
    second.session.give_up_commit()
    for _ in range(110):
        other.ask().give()
    second.session.sync()
    second.ask()
    other.ask()
    assert clock.core.turn is second.session


STALLED_DATA = encode_commit([(ROOT, pack_record(ROOT, b"stalled", b""))])


@pytest.mark.spec("TXN-46")
@pytest.mark.parametrize(
    ("held", "is_commit", "lasts_long"), [(0.19, True, True), (1, True, False), (0.1, False, False)]
)
def test_exclusive_turns_that_end_soon_with_a_commit_leave_later_ones_long(
    held: float, is_commit: bool, lasts_long: bool
) -> None:
    now = [0.0]
    turns = Turns(lambda: now[0])
    asked = [Turn(Standing(), lambda: None, lease=10) for _ in range(100)]
    for turn in asked:
        turns.ask(turn)
    for turn in asked[:50]:
        assert turns.holder is turn
        now[0] += held
        turns.end(turn, has_committed=is_commit)
    last = turns.holder
    now[0] += 5
    turns.pass_on()
    assert (turns.holder is last) is lasts_long


def stalled_clients(server: InMemoryServer) -> list[InMemoryConnection]:
    """Return clients that stall at each byte of a commit, one before its request for the turn."""
    found = []
    for sent in range(50):
        stalled = server.connect()
        stalled.sendall(encode_request(NewOids(1)))
        stalled.sendall(encode_request(Commit()))
        found.append(stalled)
        server.settle()
        if len(stalled.received) > 8:
            stalled.sendall(STALLED_DATA[: sent % len(STALLED_DATA)])
    return found


@pytest.mark.spec("TXN-42", "TXN-43", "WIRE-21")
def test_others_commit_beside_fifty_clients_that_are_stalled_at_every_byte_of_a_commit() -> None:
    server = InMemoryServer(MemoryStorage(), protocol=1)
    good = Connection(server.new_client())
    stalled = stalled_clients(server)
    times = []
    for number in range(100):
        began = server.now
        good.get_root()["n"] = number
        good.commit()
        times.append(server.now - began)
        for sent, client in enumerate(stalled):  # those that got their turn meanwhile
            if client.conversation.has_turn and number == 0:
                client.sendall(STALLED_DATA[: sent % len(STALLED_DATA)])
    assert max(times) < 0.25
    assert sorted(times)[50] < 0.02
    assert not any(client.is_closed for client in stalled)


@pytest.mark.spec("TXN-42", "WIRE-11")
def test_a_late_client_is_answered_that_its_commit_is_a_conflict() -> None:
    server = InMemoryServer(MemoryStorage(), protocol=1)
    good = Connection(server.new_client())
    late = server.connect()
    late.sendall(encode_request(Commit()))
    good.get_root()["n"] = 1
    good.commit()
    late.received.clear()
    late.sendall(STALLED_DATA)
    assert late.received == b"I"


@pytest.mark.spec("WIRE-43")
def test_a_client_whose_commit_only_came_too_late_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = InMemoryServer(MemoryStorage(), protocol=1)
    late, other = (Connection(server.new_client()) for _ in range(2))
    for name, connection in ("late", late), ("other", other):
        connection.abort()
        connection.get_root()[name] = PersistentDict()
        connection.commit()
    late.abort()
    mine, his = late.get_root()["late"], other.get_root()["other"]
    assert isinstance(mine, PersistentDict)
    assert isinstance(his, PersistentDict)
    stream = late.storage._stream  # type: ignore[attr-defined]  # it is a ClientStorage
    overtakes = 3
    sendall = InMemoryConnection.sendall

    def stall(connection: InMemoryConnection, data: bytes) -> None:
        nonlocal overtakes
        if connection is stream and connection.conversation.has_turn and overtakes:
            overtakes -= 1
            his["n"] = overtakes
            other.commit()
        sendall(connection, data)

    late.abort()
    mine["n"] = 1
    monkeypatch.setattr(InMemoryConnection, "sendall", stall)
    late.commit()
    monkeypatch.undo()
    other.abort()
    assert overtakes == 0
    stored = other.get_root()["late"]
    assert isinstance(stored, PersistentDict)
    assert stored["n"] == 1
    assert his["n"] == 0


def test_turns_in_one_process_are_not_passed_on() -> None:
    shared = SharedStorage(MemoryStorage())
    Connection(shared.new_client()).close()
    sessions = [shared._core.connect() for _ in range(2)]
    for session in sessions:
        session.begin_commit(lambda invalid: None)
    assert shared._core.pass_turn_on() == EXCLUSIVE_SECONDS
    assert shared._core.turn is sessions[0]


@pytest.mark.spec("TXN-31", "TXN-42")
def test_a_turn_that_was_lost_before_a_start_anew_is_forgotten(clock: Clock) -> None:
    slow = clock.client().ask()
    slow.session.store(ROOT, pack_record(ROOT, b"early", b""))
    clock.tick(EXCLUSIVE_SECONDS + MOMENT)
    clock.client().ask().give()
    clock.core.start_anew(is_write_lost=False)
    assert slow.session.has_lost_track
    slow.session.sync()
    slow.ask().give()
    assert slow.outcomes == [None]


@pytest.mark.spec("TXN-31", "TXN-42")
def test_a_commit_that_was_incomplete_before_a_start_anew_is_forgotten(clock: Clock) -> None:
    client = clock.client().ask()
    early, never = client.session.new_oids(2)
    client.session.store(early, pack_record(early, b"early", never))
    assert client.session.held_bytes > 0
    clock.core.start_anew(is_write_lost=False)
    assert client.session.held_bytes == 0
    client.session.sync()
    client.ask().give()
    assert client.outcomes == [None]
    assert not clock.core.has_record(early)
    client.ask()
    client.session.store(ROOT, pack_record(ROOT, b"early", b""))
    clock.core.start_anew(is_write_lost=False)
    client.ask()
    clock.tick(EXCLUSIVE_SECONDS + MOMENT)
    clock.client().ask().give()
    client.session.commit({}, client.outcomes.append)
    assert client.outcomes == [None, None], "it has given nothing in its second turn"


@pytest.mark.spec("TXN-24", "TXN-31")
def test_oids_that_were_being_given_when_an_interrupt_came_are_counted_again(clock: Clock) -> None:
    session = clock.client().session
    session.new_oids(3)
    session._grants.count += 5
    clock.core.start_anew(is_write_lost=False)
    assert session._grants.count == 3


@pytest.mark.spec("TXN-42")
def test_a_client_that_has_given_nothing_when_it_loses_its_first_turn_has_no_conflict(clock: Clock) -> None:
    slow = clock.client().ask()
    clock.tick(EXCLUSIVE_SECONDS + MOMENT)
    clock.client().ask().give()
    slow.session.commit({}, slow.outcomes.append)
    assert slow.outcomes == [None]


@pytest.mark.spec("TXN-31", "TXN-42")
def test_a_complete_commit_that_waits_for_the_one_in_its_turn_is_a_conflict_after_a_start_anew(clock: Clock) -> None:
    other = clock.client()
    slow = client_that_stalled(clock, other)
    told = len(slow.outcomes)
    slow.ask()
    other.ask()
    slow.give()
    assert len(slow.outcomes) == told
    clock.core.start_anew(is_write_lost=False)
    assert slow.is_refused
    assert len(slow.outcomes) == told + 1
