"""The client's side of version 2 of the wire protocol. spec/wire-2.md."""

from collections.abc import Callable, Collection, Mapping

from durus.error import ProtocolError, WriteConflictError
from durus.sharing import protocol2 as messages
from durus.sharing.client_dialog import Channel, ClientDialog, T, record_of
from durus.sharing.compression import NONE
from durus.sharing.prefetch import Prefetch
from durus.sharing.protocol import OKAY, Loaded
from durus.storage import Accesses, InvalidationHandler

_CHANGED_RECORDS = 32
"""How many records of changed objects a sync may bring."""
_EXTRA_BYTES = 1 << 18
"""How many bytes of records that were not asked for an answer may bring."""
_TRIES = 10_000
"""How often a commit with too many accesses is tried again after its turn was passed on."""


Parsers = Mapping[bytes, Callable[[bytes], T]]
"""Parsers for the bodies of the possible answers, by kind."""


class ClientDialog2(ClientDialog):
    """Requests to a server of this version."""

    version = messages.VERSION_2

    def __init__(self, channel: Channel, prefetch: Prefetch, hello: messages.Hello, compression: int = NONE) -> None:
        super().__init__(channel, prefetch)
        self._hello = hello
        self._compression = compression
        self._serial = hello.serial
        self._is_held = False
        """True while the server may keep a turn or a snapshot for this client."""
        self._is_snapshot = False
        self._asks_ahead = True
        """False if the server does not know the request for records that are needed soon."""
        self._is_answer_due = False
        """True while the answer to such a request is to be read."""
        extra = _EXTRA_BYTES if prefetch.limit else 0
        channel.send(
            messages.encode_request(messages.Options(min(prefetch.limit, _CHANGED_RECORDS), extra, compression))
        )

    def new_oids(self, count: int) -> list[bytes]:
        return self._ask(messages.NewOids(count), {b"N": lambda body: messages.parse_oids(body, count)})

    # Loads

    def load(self, oid: bytes) -> bytes:
        prefetch = self.prefetch
        record = prefetch.take(oid)
        if record is None and self._is_answer_due:
            self._take_due()
            record = prefetch.take(oid)
        if record is None:
            siblings = self._next_siblings(oid)
            answers = self._load([oid, *siblings] if siblings else [oid], prefetch.ahead)
            record = record_of(oid, answers[0])
            if len(answers) > 1:
                prefetch.add_records(other.record for other in answers[1:] if other.status == OKAY)
        elif prefetch.runs_low and self._asks_ahead and not self._is_answer_due:
            self._ask_ahead(oid)
        prefetch.note_loaded(record)
        return record

    def _next_siblings(self, oid: bytes) -> list[bytes]:
        self.prefetch.adapt()
        return self.prefetch.siblings(oid, min(self.prefetch.ahead, self._hello.max_oids - 1))

    def _ask_ahead(self, oid: bytes) -> None:
        """Ask for the next siblings while the application still uses those that have come. [WIRE2-17]"""
        self.prefetch.runs_low = False
        siblings = self._next_siblings(oid)
        if siblings:
            self._channel.send(messages.encode_request(messages.LoadAhead(siblings, self.prefetch.ahead)))
            self._is_answer_due = True

    def _take_due(self) -> None:
        """Take in the records that were asked for ahead, so that the next answer is that to the next request."""
        self._is_answer_due = False
        answer = self._receive_parsed(_AHEAD_ANSWERS)
        if isinstance(answer, messages.Failure):
            self._asks_ahead = False
        else:
            self.prefetch.add_records(answer)

    def _send(self, data: bytes) -> None:
        """Send a request that has an answer."""
        if self._is_answer_due:
            self._take_due()
        self._channel.send(data)

    def load_all(self, oids: list[bytes]) -> list[Loaded]:
        """Return the answers for these oids, in as many requests as the server requires. [WIRE2-2]"""
        most = max(self._hello.max_oids, 1)
        parts = (oids[start : start + most] for start in range(0, len(oids), most))
        return [answer for part in parts for answer in self._load(part, 0)[: len(part)]]

    def _load(self, oids: list[bytes], ahead: int) -> list[Loaded]:
        """Return the answers for these oids, followed by records that were not asked for."""
        self._send(messages.encode_load(oids, ahead))
        answers: list[Loaded] = []
        is_whole = False
        while not is_whole:
            is_whole, part = self._receive(_LOAD_ANSWERS)
            answers += part
        return self._checked(oids, answers)

    # Transactions

    def sync(self) -> list[bytes] | None:
        return self._sync(messages.TakeSnapshot() if self._is_snapshot else messages.Sync())

    def use_snapshots(self) -> bool:
        self._is_snapshot = True
        return True

    def take_turn(self) -> list[bytes] | None:
        return self._sync(messages.TakeTurn(is_exclusive=True))

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._channel.send(messages.encode_request(messages.Release()))

    def _sync(self, request: messages.Sync | messages.TakeSnapshot | messages.TakeTurn) -> list[bytes] | None:
        if not isinstance(request, messages.Sync):
            self._is_held = True
        return self._note_point(self._ask(request, {b"Y": messages.parse_point}))

    def _note_point(self, point: messages.SyncPoint) -> list[bytes] | None:
        self._serial = point.serial
        invalid = None if point.invalid is None else list(point.invalid)
        if invalid is None:
            self.prefetch.forget_all()
        else:
            self.prefetch.forget(invalid)
        self.prefetch.add_changed(point.records)
        return invalid

    def commit(
        self,
        records: dict[bytes, bytes],
        accesses: Accesses | None,
        handle_invalidations: InvalidationHandler | None,
    ) -> None:
        """Commit in one message, or in a turn if the server can't decide whether it is a conflict. [WIRE2-20]"""
        if not records:
            invalid = self.sync()
            if (invalid is None or invalid) and handle_invalidations is not None:
                handle_invalidations(invalid)
        elif handle_invalidations is None:
            self._commit(records, (), accesses, None)
        elif accesses is not None and len(accesses.accessed) <= self._hello.max_accessed:
            self._commit(records, accesses.accessed, accesses, handle_invalidations)
        else:
            self._commit_in_turn(records, accesses, handle_invalidations)

    def _commit_in_turn(
        self, records: dict[bytes, bytes], accesses: Accesses | None, handle_invalidations: InvalidationHandler
    ) -> None:
        for _ in range(_TRIES):
            invalid = self._sync(messages.TakeTurn(is_exclusive=False))
            try:
                if invalid is None or invalid:
                    handle_invalidations(invalid)
            except BaseException:
                self.release()
                raise
            if self._commit(records, None, accesses, handle_invalidations):
                return
        raise WriteConflictError()

    def _commit(
        self,
        records: dict[bytes, bytes],
        accessed: Collection[bytes] | None,
        accesses: Accesses | None,
        handle_invalidations: InvalidationHandler | None,
    ) -> bool:
        """Return False if a commit in a turn came too late, and may be tried again."""
        limit = self._hello.max_commit
        data = messages.encode_commit(self._serial, accessed, records.values(), self._compression, limit)
        if self._is_answer_due:
            self._take_due()
        self._channel.check_connected()  # while it is known that nothing is stored
        try:
            self._channel.send(data)
            answer = self._receive_parsed(_COMMIT_ANSWERS)
        except BaseException as error:
            self._channel.note_unknown_outcome(error)
            raise
        self._is_held = self._is_snapshot
        if isinstance(answer, messages.Failure):
            raise messages.error_of(answer)
        self.prefetch.forget(records)
        if isinstance(answer, messages.SyncPoint):
            invalid = self._note_point(answer)
            if accesses is not None:
                accesses.note_invalid(invalid)  # nothing that this transaction has used
            return True
        invalid = self._note_point(answer.point)
        if handle_invalidations is not None:
            _handle(handle_invalidations, invalid, answer.text)
        if accessed is None and not answer.oids:
            return False
        raise WriteConflictError(answer.oids, answer.text)

    # Others

    def pack(self, is_awaited: bool, on_wait: Callable[[], object] | None) -> None:
        self._ask(messages.Pack(is_awaited), {b"O": lambda body: None}, on_wait)

    def ask_for_file(self, after: bytes) -> messages.FileHead:
        return self._ask(messages.Follow(after), {b"F": messages.parse_file_head})

    def read_file(self) -> bytes:
        return self._receive(_PIECE)

    def quit(self) -> None:
        self._send(messages.encode_request(messages.Quit()))

    def read_refusal(self) -> None:
        self._receive({})

    def say_goodbye(self) -> None:
        self._channel.send(messages.encode_request(messages.Goodbye()))

    def ping(self) -> None:
        self._ask(messages.Ping(b"durus"), {b"G": lambda body: None})

    def status(self) -> dict[str, object]:
        self._send(messages.encode_request(messages.AskStatus()))
        answer = self._receive_parsed({b"I": messages.parse_report})
        if isinstance(answer, messages.Failure):
            if answer.code == messages.UNSUPPORTED:
                return super().status()
            raise messages.error_of(answer)
        return answer

    def _ask(self, request: messages.Request, parsers: Parsers[T], on_wait: Callable[[], object] | None = None) -> T:
        self._send(messages.encode_request(request))
        return self._receive(parsers, on_wait)

    def _receive(self, parsers: Parsers[T], on_wait: Callable[[], object] | None = None) -> T:
        """Return the next answer, parsed by the parser for its kind; raise the error that it reports."""
        answer = self._receive_parsed(parsers, on_wait)
        if isinstance(answer, messages.Failure):
            raise messages.error_of(answer)
        return answer

    def _receive_parsed(self, parsers: Parsers[T], on_wait: Callable[[], object] | None = None) -> T | messages.Failure:
        """Return the next answer, parsed: a malformed one ends the connection, as an incomplete one does."""
        kind, body = self._channel.receive_answer(on_wait)
        try:
            if kind in parsers:
                return parsers[kind](body)
            if kind == b"E":
                return messages.parse_failure(body)
            raise ProtocolError(
                f"the server answered with a message {kind!r}, which is not an answer to what was asked"
            )
        except BaseException as error:
            self._channel.break_off(error)
            raise


_LOAD_ANSWERS: Parsers[tuple[bool, list[Loaded]]] = {
    b"R": lambda body: (True, messages.parse_loaded(body)),
    b"r": lambda body: (False, messages.parse_loaded(body)),
}
_AHEAD_ANSWERS: Parsers[list[bytes]] = {b"A": messages.parse_records}
_PIECE: Parsers[bytes] = {b"D": lambda body: body}
_COMMIT_ANSWERS: Parsers[messages.SyncPoint | messages.Conflict] = {
    b"C": messages.parse_point,
    b"X": messages.parse_conflict,
}


def _handle(handle_invalidations: InvalidationHandler, invalid: list[bytes] | None, text: str) -> None:
    try:
        handle_invalidations(invalid)
    except WriteConflictError as conflict:
        conflict.detail = text
        raise
