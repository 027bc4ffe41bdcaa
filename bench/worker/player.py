"""Many clients of a server in one process: they speak its protocol, without objects.

A conversation is a generator without a socket. It yields bytes to send, or how many bytes it needs, or None when its
transaction is done; it continues from there when the next one is due.
"""

import heapq
import select
import socket
import time
from collections.abc import Generator, Sequence

Conversation = Generator[bytes | int | None, bytes, None]

_RECEIVE_SIZE = 1 << 16


class Client:
    """One conversation, on a connection of its own."""

    def __init__(self, address: str, conversation: Conversation) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(address)
        self.due = 0.0
        """When its transaction was due."""
        self._conversation = conversation
        self._unread = bytearray()
        self._wanted = next(conversation)

    def go_on(self) -> bool:
        """Take the steps for which there are enough bytes; return True at the end of a transaction."""
        wanted = self._wanted
        while wanted is not None:
            if isinstance(wanted, bytes):
                self.socket.sendall(wanted)
                data = b""
            elif wanted <= len(self._unread):
                data = bytes(self._unread[:wanted])
                del self._unread[:wanted]
            else:
                break
            wanted = self._conversation.send(data)
        self._wanted = wanted
        return wanted is None

    def receive(self) -> bool:
        """Take what has come, and continue."""
        received = self.socket.recv(_RECEIVE_SIZE)
        if not received:
            raise ConnectionError("the server has closed a connection")
        self._unread += received
        return self.go_on()

    def begin(self, due: float) -> None:
        """Begin the transaction that was due then."""
        self.due = due
        self._wanted = self._conversation.send(b"")
        self.go_on()


def play(address: str, conversations: Sequence[Conversation], seconds: int) -> list[float]:
    """Have each client make a transaction a second, spread evenly over the second.

    Return the time of each transaction from the moment at which it was due to its answer. So it counts what a client
    had to wait for its own transaction before, and the delays of this process.
    """
    clients = [Client(address, each) for each in conversations]
    by_descriptor = {client.socket.fileno(): client for client in clients}
    poll = select.epoll()
    for client in clients:
        while not client.go_on():
            client.receive()
        poll.register(client.socket, select.EPOLLIN)
    begin = time.perf_counter()
    schedule = [(begin + number / len(clients), descriptor) for number, descriptor in enumerate(by_descriptor)]
    times: list[float] = []
    while len(times) < seconds * len(clients):
        while schedule and schedule[0][0] <= time.perf_counter():
            due, descriptor = heapq.heappop(schedule)
            by_descriptor[descriptor].begin(due)
        wait = max(0.0, schedule[0][0] - time.perf_counter()) if schedule else None
        for descriptor, _ in poll.poll(wait):
            client = by_descriptor[descriptor]
            if client.receive():
                times.append(time.perf_counter() - client.due)
                if client.due + 1 < begin + seconds:
                    heapq.heappush(schedule, (client.due + 1, descriptor))
    for client in clients:
        client.socket.close()
    poll.close()
    return times
