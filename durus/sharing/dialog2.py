"""The server's side of version 2 of the wire protocol, for one client. spec/wire-2.md."""

from collections.abc import Collection, Generator

from durus.error import (
    DurusError,
    DurusKeyError,
    LimitError,
    NotAllowedError,
    OutcomeUnknownError,
    ProtocolError,
    RecordError,
    WriteConflictError,
)
from durus.records.record import refs_outside
from durus.sharing import protocol2 as messages
from durus.sharing.ahead import Ahead
from durus.sharing.compression import NONE
from durus.sharing.dialog import COST_OF_A_LOAD, MESSAGE, SENT_AT_A_TIME, WORK_AT_A_TIME, Dialog, Host, Steps
from durus.sharing.protocol import INVALID, NOT_FOUND
from durus.sharing.roles import Role
from durus.sharing.session import Session, SessionCore
from durus.storage import check_record

_MAX_AHEAD = 1 << 12
"""How many records that were not asked for a load may bring, whatever the client wants."""
_NEW_OIDS_AT_A_TIME = 1 << 10
"""How many new oids are made before other clients have their turn: they take about a millisecond."""
_TOO_MUCH_WAITS = "the server has no room for more commits that are not complete; run the transaction again"


class Dialog2(Dialog):
    """A dialog in messages that have a length."""

    def __init__(self, core: SessionCore, host: Host, session: Session) -> None:
        super().__init__(core, host, session)
        self.counts_requests = False
        self._options = messages.Options(0, 0, NONE)
        self._ahead = Ahead()
        self._records: dict[bytes, bytes] = {}
        """The records of the commit that is being read."""
        self._is_dropped = False
        """True if they were too many for the memory of the server."""
        self._has_snapshot = False

    def converse(self) -> Steps:
        yield from self._begin()
        if self._session.has_lost_track:  # the core has started anew since the client connected
            self._session.sync()
        hello, reserve = self._host.hello, self._host.reserve
        self._host.send(messages.encode_hello(hello._replace(serial=self._session.serial)))
        while not self.is_finishing:
            if self._host.is_paused or self._work >= WORK_AT_A_TIME:
                yield from self._let_others_go_first()
            self.is_between_requests = True
            try:
                message = yield MESSAGE
                if message:
                    request = messages.parse_request(message, self._take, hello.max_commit)
                else:
                    request = yield from messages.read_request(self._take, hello.max_commit)
                self.request_count += 1
                self._work += 1
                if reserve is not None and not isinstance(request, messages.WITHOUT_DATABASE):
                    self.refuse(reserve)
                    self._host.note_refusal(reserve)
                    break
                if type(request) is messages.Load:
                    yield from self._load(request)
                elif type(request) is messages.Commit:
                    yield from self._commit(request)
                elif type(request) is messages.Goodbye:
                    break
                else:
                    yield from self._answer(request)
            except (ProtocolError, RecordError) as error:
                self._send(b"E", messages.encode_failure(messages.Failure(messages.MALFORMED, str(error))))
                raise
            except OutcomeUnknownError:
                raise  # the end of the connection tells the client the same [WIRE-25]
            except DurusError as error:
                self._send(b"E", messages.encode_failure(messages.failure_of(error)))
                if isinstance(error, NotAllowedError | LimitError):
                    self._host.note_refusal(error)
            finally:
                if self._records:
                    self._drop_records()
        return None

    def refuse(self, error: LimitError) -> None:
        self._send(b"E", messages.encode_failure(messages.failure_of(error)))

    def keep_waiting(self) -> None:
        self._send(messages.WAIT)

    def _send(self, kind: bytes, body: bytes = b"") -> None:
        self.may_leave_unread = kind == b"A"
        self._host.send(messages.encode(kind, body, self._options.compression))

    def _answer(self, request: messages.Request) -> Generator[int, bytes, None]:
        session = self._session
        match request:
            case messages.LoadAhead(oids, count):
                self._load_ahead(oids[:_MAX_AHEAD], count)
            case messages.Sync():
                yield from self._until_fresh()
                self._send_point(session.sync())
            case messages.TakeSnapshot():
                self._has_snapshot = True
                self._send_point(session.take_snapshot())
            case messages.TakeTurn(is_exclusive):
                self._require(Role.WRITE, "take the turn to commit")
                session.give_up_commit()
                lease = self._host.hello.turn_milliseconds / 1000 if is_exclusive else None
                invalid = yield from self._until_turn(lease)
                if is_exclusive:
                    yield from self._until_sendable(invalid)
                while session.has_lost_track:  # the core has started anew before the answer, so the turn is lost, too
                    session.give_up_commit()
                    invalid = yield from self._until_turn(lease)
                self._send_point(invalid)
            case messages.Release():
                session.give_up_commit()
                self._has_snapshot = False
                session.drop_snapshot()
            case messages.NewOids(number):
                self._require(Role.WRITE, "store objects")
                yield from self._new_oids(number)
            case messages.Options():
                if 1 << request.compression & (1 | self._host.hello.compressions) == 0:
                    raise ProtocolError(f"the client asks for the method {request.compression} of compression")
                self._options = request
            case messages.Pack(is_awaited):
                self._require(Role.ADMIN, "have the server pack")
                yield from self._pack(is_awaited)
            case messages.AskStatus():
                self._work = WORK_AT_A_TIME  # it may load as many records
                self._send(b"I", messages.encode_report(self._host.status()))
            case messages.Follow(after):
                yield from self._send_file(after)
            case messages.Ping(data):
                self._send(b"G", data)
            case messages.Quit():
                self._require(Role.ADMIN, "stop the server")
                yield from self._quit()
            case messages.Unknown(kind):
                text = f"this server has no request {kind!r}"
                self._send(b"E", messages.encode_failure(messages.Failure(messages.UNSUPPORTED, text)))

    # Loads

    def _load(self, load: messages.Load) -> Generator[int, bytes, None]:
        answers: list[bytes] = []
        records: dict[bytes, bytes] = {}
        size = 0
        self.load_count += len(load.oids)
        if len(load.oids) > 1:
            self._session.expect_loads(load.oids, self._has_snapshot)
        for oid in load.oids:
            if not self._has_snapshot and self._session.must_wait(oid):
                yield from self._until_durable(oid)
            try:
                record = self._record(oid)
            except DurusKeyError:
                answer = NOT_FOUND
            else:
                answer = INVALID if record is None else messages.encode_found(record)
                if record is not None:
                    records[oid] = record
            answers.append(answer)
            size += len(answer) + COST_OF_A_LOAD
            if size >= SENT_AT_A_TIME:
                self._send(b"r", b"".join(answers))
                answers, size = [], 0
                yield from self._let_others_in()
                yield from self._until_read()
        others = self._what_comes_with(records, load.ahead, self._options.extra_bytes)
        answers += [messages.encode_found(record) for record in others]
        self._send(b"R", b"".join(answers))

    def _what_comes_with(self, records: dict[bytes, bytes], count: int, size: int) -> list[bytes]:
        """Note that the client gets these records, and return others to which they refer. [WIRE2-11]"""
        if not self._options.extra_bytes:
            return []
        self._ahead.note_sent(list(records))
        if not count or not refs_outside(records):
            return []
        count, found = min(count, _MAX_AHEAD), list(records.values())
        if len(found) > 1 and self._core.has_others:
            self._session.expect_loads(self._ahead.wanted(found, count), self._has_snapshot)
        others = self._ahead.follow(found, count, size, self._load_at_once)
        self._work += len(others)
        return others

    def _load_ahead(self, oids: list[bytes], count: int) -> None:
        """Send what can be had at once of the records that the client may need soon. [WIRE2-17]"""
        self._session.expect_loads(oids, self._has_snapshot)
        records: dict[bytes, bytes] = {}
        left = self._options.extra_bytes
        for oid in oids:
            record = self._load_at_once(oid)
            if record is not None:
                if len(record) > left:
                    break
                left -= len(record)
                records[oid] = record
        self.load_count += len(oids)
        self._work += len(records)
        others = self._what_comes_with(records, count, left)
        self._send(b"A", messages.encode_records([*records.values(), *others]))

    def _record(self, oid: bytes) -> bytes | None:
        """Return the record that the client sees, None if it is invalid; DurusKeyError if there is none."""
        return self._session.load_from_snapshot(oid) if self._has_snapshot else self._session.load(oid)

    def _load_at_once(self, oid: bytes) -> bytes | None:
        """Return the record that the client may see without waiting, None if there is none, or it can't be loaded.

        An error must not take the place of an answer, such as the one to a commit that is stored.
        """
        if not self._has_snapshot and self._core.is_undurable(oid):
            return None
        try:
            return self._record(oid)
        except DurusError:
            return None

    # Commits

    def _take(self, record: bytes) -> None:
        """Take a record of a commit that is being read. [WIRE2-20]"""
        oid = record[:8]
        check_record(oid, record)
        if oid in self._records:
            raise ProtocolError("a commit has two records of one oid")
        if not self._is_dropped and not self._session.hold(len(record)):
            self._session.release_bytes()
            self._is_dropped = True
        self._records[oid] = b"" if self._is_dropped else record

    def _drop_records(self) -> None:
        self._records, self._is_dropped = {}, False
        self._session.release_bytes()

    def _commit(self, commit: messages.Commit) -> Generator[int, bytes, None]:
        session, records = self._session, self._records
        self._require(Role.WRITE, "store objects")
        if self._is_dropped:
            session.give_up_commit()
            self._send_conflict([], _TOO_MUCH_WAITS, session.sync())
            return
        outcomes: list[tuple[Collection[bytes] | None, DurusError | None]] = []
        size = sum(map(len, records.values()))

        def done(invalid: Collection[bytes] | None, error: DurusError | None) -> None:
            outcomes.append((invalid, error))
            self._host.commit_ended(len(records), size, error)
            if self.is_held:
                self._host.wake()

        session.commit_whole(commit.serial, commit.accessed, records, done)
        self._host.commit_is_ready()
        yield from self._until_answered(outcomes)
        invalid, error = outcomes[0]
        if session.has_lost_track:
            invalid = session.sync()
        if error is None:
            self._send(b"C", messages.encode_point(self._point(invalid)))
            self._ahead.note_stored(records)
        elif isinstance(error, WriteConflictError):
            text = session.describe_changes(error.oids) if error.oids else ""
            self._ahead.note_stored(error.oids)  # it will read them again
            self._send_conflict(error.oids, text, invalid)
        else:
            session.go_back_to(commit.serial)
            raise error

    def _until_sendable(self, invalid: list[bytes] | None) -> Generator[int, bytes, None]:
        """Wait for the records that are to come with a sync point, so that the client need not ask for them."""
        count = self._options.changed_count
        for oid in self._ahead.having(invalid or ())[:count]:
            yield from self._until_durable(oid)

    def _send_conflict(self, oids: list[bytes], text: str, invalid: Collection[bytes] | None) -> None:
        self._send(b"X", messages.encode_conflict(messages.Conflict(oids, text, self._point(invalid))))

    def _send_point(self, invalid: list[bytes] | None) -> None:
        self._send(b"Y", messages.encode_point(self._point(invalid)))

    def _point(self, invalid: Collection[bytes] | None) -> messages.SyncPoint:
        options = self._options
        if invalid and self._core.has_others:
            self._session.expect_loads(self._ahead.having(invalid)[: options.changed_count], self._has_snapshot)
        changed = self._ahead.take_changed(invalid, options.changed_count, options.extra_bytes, self._load_at_once)
        return messages.SyncPoint(self._session.serial, invalid, changed)

    # Others

    def _new_oids(self, number: int) -> Generator[int, bytes, None]:
        """Send new oids; many of them take a while, so that other clients are served meanwhile. [WIRE-22]"""
        self._session.require_unused(number)
        oids: list[bytes] = []
        while len(oids) < number:
            if oids:
                yield from self._let_others_in()
            oids += self._session.new_oids(min(number - len(oids), _NEW_OIDS_AT_A_TIME))
        self._work += number
        self._send(b"N", b"".join(oids))

    def _send_file(self, after: bytes) -> Generator[int, bytes, None]:
        """Send what is sealed in the file, a piece at a time, as the client takes it. [WIRE2-50] to [WIRE2-53]"""
        part = self._core.storage.sealed_part(after.decode("ascii", "replace"))
        try:
            self._send(b"F", bytes([part.start > 0]) + part.seal.encode("ascii"))
            for offset in range(part.start, part.end, SENT_AT_A_TIME):
                yield from self._let_others_in()
                yield from self._until_read()
                size = min(SENT_AT_A_TIME, part.end - offset)
                data = part.read_at(offset, size)
                if len(data) < size:
                    raise DurusError(f"the file became shorter than {part.end} bytes while it was sent")
                self._send(b"D", data)
            self._host.file_sent()
        finally:
            part.close()

    def _pack(self, is_awaited: bool) -> Generator[int, bytes, None]:
        ends: list[DurusError | None] = []

        def ended(error: DurusError | None) -> None:
            ends.append(error)
            self._host.wake()

        self._host.pack(ended)
        if is_awaited:
            yield from self._until(lambda: ends)
            if ends[0] is not None:
                raise ends[0]
        self._send(b"O")
