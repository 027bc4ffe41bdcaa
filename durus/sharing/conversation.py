"""The server's side of the wire protocol, for one client: bytes in, bytes out. spec/wire.md and spec/wire-2.md.

No sockets and no clocks here. A Conversation receives bytes as they arrive, and calls its Host to send, to wait and to
do work. dialog1.py and dialog2.py have the requests and answers, one module for each version of the protocol.
"""

import struct

from durus.error import DurusError, LimitError
from durus.sharing.dialog import EVENT, MAX_WHOLE, MESSAGE, Dialog, Host
from durus.sharing.dialog1 import Dialog1
from durus.sharing.session import SessionCore

_U32 = struct.Struct(">I")


class Conversation:
    """Drives the dialog with one client."""

    def __init__(self, core: SessionCore, host: Host, name: str = "") -> None:
        self._host = host
        self._session = core.connect(name)
        self._buffer = bytearray()
        self._event_happened = False
        self._is_closed = False
        self._is_advancing = False
        self.received = 0
        """How many bytes have arrived."""
        self._dialog: Dialog = Dialog1(core, host, self._session)
        self._steps = self._dialog.converse()
        self._wanted = next(self._steps)
        self._needed = 0
        """How many bytes the buffer must have before the dialog continues, if it wants bytes."""

    @property
    def request_count(self) -> int:
        """How many requests have begun."""
        return self._dialog.request_count

    @property
    def load_count(self) -> int:
        """How many records the client has asked for."""
        return self._dialog.load_count

    @property
    def holds_snapshot(self) -> bool:
        """True while a state is kept for the client."""
        return self._session.holds_snapshot

    @property
    def doing(self) -> str:
        """What the client does, or waits for, in a few words. [WIRE2-35]"""
        if self._dialog.is_held:
            return "waits for its commit"
        if self._session.has_turn:
            return "has the turn to commit"
        if self._session.is_in_line:
            return "waits for its turn to commit"
        if self._dialog.is_awaited:
            return "waits for an answer"
        return "sends a request" if self.is_inside_request else "idle"

    @property
    def progress(self) -> int:
        """A number that changes when the client has sent what it may not take too long for. [WIRE-22] [WIRE2-5]"""
        return self._dialog.request_count if self._dialog.counts_requests else self.received

    @property
    def is_awaited(self) -> bool:
        """True while the client waits for an answer that may take its time."""
        return self._dialog.is_awaited

    @property
    def may_leave_unread(self) -> bool:
        """True if the client may leave its last answer unread for as long as it likes. [WIRE2-17]"""
        return self._dialog.may_leave_unread

    @property
    def has_turn(self) -> bool:
        """True while others may wait for the client to send the data of a commit."""
        return self._dialog.has_exclusive_data

    @property
    def is_inside_request(self) -> bool:
        """True if the client has sent a part of a message, and the rest is missing."""
        return self._wanted != EVENT and not (self._dialog.is_between_requests and not self._buffer)

    @property
    def has_unread_input(self) -> bool:
        """True if there is input that is not consumed yet, so that more would only fill memory."""
        return self._wanted == EVENT and bool(self._buffer)

    def receive(self, data: bytes) -> None:
        """Take bytes that have arrived."""
        self.received += len(data)
        buffer = self._buffer
        self._dialog.is_alone = len(data) == 1 and not buffer
        self._session.note_received(len(data))
        if buffer:
            buffer += data
            if self._wanted == EVENT or len(buffer) < self._needed:
                return
            data = bytes(buffer)
            buffer.clear()
        self._advance(data)

    def proceed(self) -> None:
        """Go on, if the event that the conversation waits for has happened."""
        self._event_happened = True
        data = bytes(self._buffer)
        self._buffer.clear()
        self._advance(data)

    def keep_waiting(self) -> None:
        """Tell the client, where it can be told, that its answer is still to come. [WIRE2-33]"""
        if self._dialog.is_awaited and not self._is_closed:
            self._dialog.keep_waiting()

    @property
    def held_bytes(self) -> int:
        """How many bytes are held of requests that are not complete."""
        return len(self._buffer) + self._session.held_bytes

    def refuse(self, error: LimitError) -> None:
        """End the conversation, because the client is at a limit; tell it where it can be told. [WIRE2-42]"""
        if not self._is_closed:
            self._dialog.refuse(error)
            self._end(error)

    def finish(self) -> None:
        """End the conversation; if a complete commit is in progress, after its answer."""
        self._dialog.is_finishing = True
        if not self._dialog.is_held:
            self._end(None)

    def close(self) -> None:
        """Release what the client holds, after its connection was closed."""
        if not self._is_closed:
            self._is_closed = True
            if not self._is_advancing:  # otherwise _advance() does it
                self._steps.close()  # or it would have its files open until it is collected as garbage
            self._session.close()

    def _advance(self, data: bytes) -> None:
        """Give the dialog what it wants of these bytes, and keep the rest of them."""
        index, size = 0, len(data)
        self._is_advancing = True
        try:
            while not self._is_closed:
                wanted = self._wanted
                if wanted == MESSAGE:
                    if index == size:
                        break
                    start, end = _next_message(data, index)
                elif wanted != EVENT:
                    start, end = index, index + wanted
                elif self._event_happened:
                    start = end = index
                else:
                    break
                if end > size:
                    self._needed = end - index
                    break
                index = end
                dialog = self._dialog
                self._event_happened = dialog.is_between_requests = False
                dialog.has_unused_input = index < size
                try:
                    self._wanted = self._steps.send(data[start:end])
                except StopIteration as stop:
                    self._go_on_with(stop.value)
        except DurusError as error:
            self._end(error)
        finally:
            self._is_advancing = False
            if self._is_closed:
                self._steps.close()
        if index < size:
            self._buffer += data[index:]

    def _go_on_with(self, dialog: Dialog | None) -> None:
        if dialog is None:
            self._end(None)
        else:
            dialog.is_finishing = self._dialog.is_finishing
            self._dialog = dialog
            self._steps = dialog.converse()
            self._wanted = next(self._steps)

    def _end(self, error: DurusError | None) -> None:
        if not self._is_closed:
            self.close()
            self._host.end(error)


def _next_message(data: bytes, index: int) -> tuple[int, int]:
    """Return where the next message begins and ends, or how far its size goes if that is not complete."""
    start = index + _U32.size
    if start > len(data):
        return index, start
    (size,) = _U32.unpack_from(data, index)
    return (start, start + size) if 0 < size <= MAX_WHOLE else (index, index)
