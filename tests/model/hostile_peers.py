"""Hostile clients in every state of TLS and of both protocols, against servers in processes of their own.

    python -m tests.model.hostile_peers --inputs N --seed S

An input is what an attacker sends in one state; STATES has them all. Meanwhile another client commits, and loads what
it has committed. No server may crash, log more than a line for a fault, or keep memory, descriptors or connections.
"""

import argparse
import contextlib
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from durus.client_storage import ClientStorage
from durus.error import DurusError, DurusKeyError, WriteConflictError
from durus.files.file import OperatingSystem
from durus.files.shelf.inspection import ShelfInspection
from durus.oid import ROOT_OID, oid_from_int
from durus.persistent_dict import PersistentDict
from durus.records.record import pack_record
from durus.serialize import class_pickle
from durus.sharing import protocol2
from durus.sharing.address import HostPortAddress, TlsAddress
from durus.sharing.compression import ZLIB
from durus.sharing.protocol import Commit, Load, NewOids, Pack, Version, encode_request, encode_u32
from durus.sharing.tls import Channel, ClientTls
from tests.certificates import Certificates, make_certificates
from tests.fuzz.mutations import a_commit, a_conversation, a_conversation_2, a_record, mutate
from tests.hostile import Ref, state_with_refs
from tests.integration.serving import SECONDS, Server
from tests.model.nemesis import Figures
from tests.short_paths import short_folder

COMMIT_TIMEOUT = 0.2
STALL_TIMEOUT = 2.0
AT_A_TIME = 150
"""How many attackers are connected at the same time, besides those that stay."""
STAYING = 40
"""How many attackers say nothing any more and do not read, until they are dropped or others take their place."""
WARM = 20_000
"""After how many inputs the memory of a server is noted for the first time."""
MAX_MEMORY_MORE = 48 << 20
"""How many bytes more than then the server may have at the end."""
OTHER_OIDS = 5000
"""How many oids the other client takes first, so that its object has one that attackers do not guess."""
MADE = 500
"""How many sound inputs of a kind there are at the same time."""
_KEY_UPDATE = b"\x18\0\0\1\0"
_CLIENTS = ("reader", "writer", "admin")
_REFUSED_CLIENTS = ("", "unnamed", "expired", "stranger", "server")

_EXPECTED = re.compile(r"[-\d]{10} [:\d]{8},\d{3} (WARNING client |ERROR a connection is refused: )")

Payload = Callable[[random.Random], bytes]


class Peer:
    """An attacker: its socket, and its end of TLS if there is one."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self.channel: Channel | None = None

    def shake_hands(self, context: ClientTls) -> None:
        """Make a sound handshake up to the last bytes of the client, which are still to be sent."""
        self.channel = context.new_channel("localhost")
        is_complete = self.channel.shake_hands(b"")
        while not is_complete:
            self.send(self.channel.outgoing())
            is_complete = self.channel.shake_hands(self.socket.recv(1 << 16))

    def send(self, data: bytes) -> bool:
        """Send bytes as they are; return False if the server has closed the connection."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    def send_in_pieces(self, data: bytes, chance: random.Random) -> None:
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice([0, 0, 0, 1, 2])))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if not self.send(data[start:end]):
                return

    def end_soon(self, chance: random.Random) -> None:
        """Say that nothing more comes, in one of the ways that there are."""
        with contextlib.suppress(OSError):
            if chance.random() < 0.2:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                self.socket.close()
            else:
                self.socket.shutdown(socket.SHUT_WR)

    def finish(self) -> None:
        """Read to the end of what the server says."""
        if self.socket.fileno() != -1:
            with contextlib.suppress(ConnectionError):
                while self.socket.recv(1 << 16):
                    pass
            self.socket.close()


class State(NamedTuple):
    """One state of a connection, and what is sent in it."""

    server: str
    """`plain`, `tls`, or `full`, which has no place for a client."""
    weight: int
    act: Callable[["Attack", random.Random], Peer]


class Attack:
    """Servers under attack."""

    def __init__(self, folder: Path) -> None:
        self.certificates = make_certificates(folder)
        self.contexts = {
            name: ClientTls(self.certificates("ca"), self.certificates(name) if name else None)
            for name in (*_CLIENTS, *_REFUSED_CLIENTS)
        }
        hello = ClientTls(self.certificates("ca")).new_channel("localhost")
        hello.shake_hands(b"")
        self.hello = hello.outgoing()
        made = self.certificates
        tls = ("--tls-cert", made("server"), "--tls-client-ca", made("ca"), "--tls-roles", made.roles)
        self.targets = {
            "plain": Target(folder, "plain", ["--may-stop", "user"], None),
            "tls": Target(folder, "tls", [*tls, "--may-stop", "user"], made),
            "full": Target(folder, "full", ["--may-stop", "user", "--max-clients", "1"], None),
        }

    def connect(self, target: str) -> Peer:
        return Peer(self.targets[target].port)

    def connect_by_tls(self, client: str) -> Peer:
        peer = self.connect("tls")
        peer.shake_hands(self.contexts[client])
        return peer


class Target:
    """A server, and the other client that uses it all the time."""

    def __init__(self, folder: Path, name: str, options: Sequence[str], certificates: Certificates | None) -> None:
        self.name = name
        self.file = folder / f"{name}.durus"
        self.log = folder / f"{name}.log"
        always = ("--port", "0", "--file", str(self.file), "--logfile", str(self.log), "--logginglevel", "30")
        times = ("--commit-timeout", str(COMMIT_TIMEOUT), "--stall-timeout", str(STALL_TIMEOUT))
        self._server = Server(*always, *times, *options, folder=folder)
        self.port = self._server.port
        self.problems: list[str] = []
        self.commits = self.conflicts = self.lost_by_packs = 0
        self.longest = 0.0
        self._stop = threading.Event()
        address: HostPortAddress = HostPortAddress("127.0.0.1", self.port)
        if certificates is not None:
            ca, cert = certificates("ca"), certificates("admin")
            address = TlsAddress("127.0.0.1", self.port, tls_ca=ca, tls_cert=cert, tls_server_name="localhost")
        self._other = ClientStorage(address=address, timeout=SECONDS)
        self._thread = threading.Thread(target=self._use)
        self._thread.start()
        self.before: tuple[int, int] | None = None

    def figures(self) -> tuple[int, int]:
        """Return the bytes of memory that the server has, and how many files it has open."""
        process = Path(f"/proc/{self._server.process.pid}")
        (line,) = re.findall(r"VmRSS:\s*(\d+) kB", (process / "status").read_text())
        return int(line) << 10, len(list((process / "fd").iterdir()))

    def _use(self) -> None:
        try:
            self._commit_and_load()
        except Exception as error:
            self.problems.append(f"{self.name}: the other client was harmed: {error!r}")

    def _commit_and_load(self) -> None:
        """Commit one value after the other, and load it again: what is acknowledged must be there."""
        client = self._other
        for _ in range(OTHER_OIDS):
            oid = client.new_oid()
        while not self._stop.wait(0.02):
            own = pack_record(oid, _state(self.commits), b"")
            root = pack_record(ROOT_OID, _state(Ref(int.from_bytes(oid), PersistentDict)), oid)
            began = time.monotonic()
            client.begin()
            client.store(ROOT_OID, root)
            client.store(oid, own)
            try:
                client.end()
            except WriteConflictError:  # of the root, which attackers may write
                self.conflicts += 1
                client.sync()
                continue
            self.longest = max(self.longest, time.monotonic() - began)
            self.commits += 1
            client.sync()
            try:
                found = client.load(oid)
            except DurusKeyError:  # an attacker has put another root, and a pack has taken the object
                if client.load(ROOT_OID) == root:
                    raise
                self.lost_by_packs += 1
                oid = client.new_oid()
            else:
                if found != own:
                    raise RuntimeError(f"it has committed {own!r}, and loads {found!r}")

    def clients(self) -> int:
        """Return how many connections there are."""
        clients = self._other.server_status()["clients"]
        assert isinstance(clients, dict)
        return int(clients["count"])

    def close(self, figures: Figures) -> None:
        """End the server, and check what is left of it."""
        self._stop.set()
        self._thread.join(SECONDS)
        name = self.name
        end = time.monotonic() + SECONDS
        while (clients := self.clients()) > 1 and time.monotonic() < end:
            time.sleep(0.1)
        memory, files = self.figures()
        before_memory, before_files = self.before or (memory, files)
        figures.counts[f"{name}: commits of the other client"] += self.commits
        figures.counts[f"{name}: its conflicts about the root"] += self.conflicts
        figures.counts[f"{name}: its longest commit, in ms"] = int(1000 * self.longest)
        figures.counts[f"{name}: KiB of memory before"] = before_memory >> 10
        figures.counts[f"{name}: KiB of memory after"] = memory >> 10
        figures.counts[f"{name}: open files before"] = before_files
        figures.counts[f"{name}: open files after"] = files
        problems = figures.violations
        problems += self.problems
        if clients > 1:
            problems.append(f"{name}: {clients} clients are connected, and all but one have gone")
        if not self.commits:
            problems.append(f"{name}: the other client has committed nothing")
        if memory > before_memory + MAX_MEMORY_MORE:
            problems.append(f"{name}: the server had {before_memory} bytes of memory, and has {memory}")
        if files > before_files:
            problems.append(f"{name}: the server had {before_files} files open, and has {files}")
        with contextlib.suppress(DurusError):
            self._other.close()
        status = self._server.end()
        if status or self._server.log.text:
            problems.append(f"{name}: the server ended with status {status}: {self._server.log.text}")
        with self.log.open(encoding="utf-8", newline="\n") as log:
            for line in log:
                figures.counts[f"{name}: lines of the log"] += 1
                text = line.removesuffix("\n")
                if not _EXPECTED.match(text) or not text.isprintable():
                    problems.append(f"{name}: logged: {text!r}")
        file = OperatingSystem().open(str(self.file), "read")
        for finding in ShelfInspection(file).findings():
            if "its data can't be read" not in str(finding):  # which attackers may write
                problems.append(f"{name}: {finding}")
        file.close()

    def kill(self) -> None:
        self._stop.set()
        self._server.process.kill()
        self._server.wait()
        self._thread.join(SECONDS)


def _state(value: object) -> bytes:
    return class_pickle(PersistentDict) + state_with_refs({"data": {"x": value}})


# What is sent


def _sometimes_changed(make: Payload) -> Payload:
    """Return what changes one of the inputs that `make` has made: changing is much faster than making."""
    made: list[bytes] = []

    def changed(chance: random.Random) -> bytes:
        if len(made) < MADE or chance.random() < 0.01:
            data = make(chance)
            made.append(data)
            del made[: len(made) - MADE]
        else:
            data = chance.choice(made)
        return data if chance.random() < 0.25 else mutate(data, chance, made)

    return changed


def _anything(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(1, 300))


_V1 = encode_request(Version(1))
_V2 = encode_request(Version(2))
_LOADS_1 = encode_request(Load(ROOT_OID)) * 40
_LOADS_2 = protocol2.encode_load([ROOT_OID] * 40, 0)
_LONG = protocol2.encode_commit(0, [], [pack_record(ROOT_OID, bytes(1 << 17), b"")])
"""A commit that is read as it comes, since it is long."""
_OPTIONS = protocol2.encode_request(protocol2.Options(32, 1 << 18, ZLIB))


def _squeezed(chance: random.Random) -> bytes:
    """Return messages of version 2 in compressed ones, some of which are wrong."""
    records = [a_record(chance, oid_from_int(chance.randrange(4))) + bytes(chance.randrange(2000)) for _ in range(2)]
    data = protocol2.encode_commit(0, [ROOT_OID], records, ZLIB)
    return data + protocol2.encode(b"Z", b"\1" + chance.randbytes(chance.randrange(40)))


_REQUESTS_1, _REQUESTS_2 = _sometimes_changed(a_conversation), _sometimes_changed(a_conversation_2)
_COMMITS_1, _SQUEEZED = _sometimes_changed(a_commit), _sometimes_changed(_squeezed)

PROTOCOL_1: dict[str, tuple[bytes, Payload]] = {
    "1: first bytes": (b"", _REQUESTS_1),
    "1: anything at first": (b"", _anything),
    "1: between requests": (_V1 + encode_request(NewOids(3)), _REQUESTS_1),
    "1: inside a request": (b"B\0\0\1\0", _REQUESTS_1),
    "1: with the turn": (encode_request(Commit()), _COMMITS_1),
    "1: inside a commit": (encode_request(Commit()) + encode_u32(1000), _COMMITS_1),
    "1: answers not read": (_LOADS_1, _REQUESTS_1),
    "1: asks for a pack": (encode_request(Pack()), _REQUESTS_1),
}
"""What is sent before an input of version 1, so that the server is in a state; and the input."""

PROTOCOL_2: dict[str, tuple[bytes, Payload]] = {
    "2: after the hello": (_V2, _REQUESTS_2),
    "2: anything after the hello": (_V2, _anything),
    "2: with compression": (_V2 + _OPTIONS, _SQUEEZED),
    "2: with a snapshot": (
        _V2 + protocol2.encode_request(protocol2.TakeSnapshot()),
        _REQUESTS_2,
    ),
    "2: with the turn": (
        _V2 + protocol2.encode_request(protocol2.TakeTurn(False)),
        _REQUESTS_2,
    ),
    "2: with an exclusive turn": (
        _V2 + protocol2.encode_request(protocol2.TakeTurn(True)),
        _REQUESTS_2,
    ),
    "2: inside a commit": (_V2 + _LONG[:20_000], _REQUESTS_2),
    "2: gets the file": (_V2 + protocol2.encode_request(protocol2.Follow(b"")), _REQUESTS_2),
    "2: answers not read": (_V2 + _LOADS_2 * 10, _REQUESTS_2),
    "2: waits for a pack": (_V2 + protocol2.encode_request(protocol2.Pack(True)), _REQUESTS_2),
    "2: asks for the status": (
        _V2 + protocol2.encode_request(protocol2.AskStatus()),
        _REQUESTS_2,
    ),
}


def _in_protocol(server: str, before: bytes, payload: Payload) -> Callable[[Attack, random.Random], Peer]:
    def act(attack: Attack, chance: random.Random) -> Peer:
        peer = attack.connect(server)
        peer.send_in_pieces(before + payload(chance), chance)
        return peer

    return act


def _inside_tls(before: bytes, payload: Payload) -> Callable[[Attack, random.Random], Peer]:
    """Do the same in sound TLS, as a client with each of the roles. None may stop the server: that would be no harm."""

    def act(attack: Attack, chance: random.Random) -> Peer:
        peer = attack.connect_by_tls(chance.choice(_CLIENTS))
        assert peer.channel is not None
        data = before + payload(chance).replace(b"Q", b"q")
        peer.send_in_pieces(peer.channel.outgoing() + peer.channel.protect(data or b"L"), chance)
        return peer

    return act


def _hello(attack: Attack, chance: random.Random) -> Peer:
    peer = attack.connect("tls")
    peer.send_in_pieces(mutate(attack.hello, chance), chance)
    return peer


def _anything_for_a_hello(attack: Attack, chance: random.Random) -> Peer:
    peer = attack.connect("tls")
    peer.send_in_pieces(chance.choice([b"\x16\3\1", b"\x16", b"", b"\x80"]) + _anything(chance), chance)
    return peer


def _end_of_handshake(attack: Attack, chance: random.Random) -> Peer:
    """Change the client's last bytes of the handshake, which are encrypted."""
    peer = attack.connect_by_tls(chance.choice((*_CLIENTS, *_REFUSED_CLIENTS)))
    assert peer.channel is not None
    peer.send_in_pieces(mutate(peer.channel.outgoing(), chance) + chance.choice([b"", b"S", _V2]), chance)
    return peer


def _who_is_refused(attack: Attack, chance: random.Random) -> Peer:
    """Send requests with a certificate that gives no right to do so."""
    peer = attack.connect_by_tls(chance.choice(_REFUSED_CLIENTS))
    assert peer.channel is not None
    peer.send_in_pieces(peer.channel.outgoing() + peer.channel.protect(a_conversation(chance)), chance)
    return peer


def _records(attack: Attack, chance: random.Random) -> Peer:
    """Change records of TLS after the handshake."""
    peer = attack.connect_by_tls(chance.choice(_CLIENTS))
    assert peer.channel is not None
    end, sound = peer.channel.outgoing(), peer.channel.protect(a_conversation_2(chance) or b"V")
    peer.send_in_pieces(end + mutate(sound + peer.channel.protect(b"S"), chance, [attack.hello]), chance)
    return peer


def _other_bytes(attack: Attack, chance: random.Random) -> Peer:
    """Send alerts, ends, handshakes and others in plain text after the handshake."""
    peer = attack.connect_by_tls(chance.choice(_CLIENTS))
    assert peer.channel is not None
    data = chance.choice([b"\x15\3\3\0\2\1\0", b"\x15\3\3\0\2\2\x28", b"\x14\3\3\0\1\1", attack.hello, _KEY_UPDATE])
    end = peer.channel.end() if chance.random() < 0.3 else b""
    peer.send_in_pieces(peer.channel.outgoing() + end + mutate(data, chance), chance)
    return peer


def _states() -> Iterator[tuple[str, State]]:
    for name, (before, payload) in {**PROTOCOL_1, **PROTOCOL_2}.items():
        yield name, State("plain", 40, _in_protocol("plain", before, payload))
        yield f"TLS, {name}", State("tls", 1, _inside_tls(before, payload))
        if name in ("1: first bytes", "2: after the hello"):
            yield f"no place, {name}", State("full", 20, _in_protocol("full", before, payload))
    yield "TLS: the hello", State("tls", 100, _hello)
    yield "TLS: anything", State("tls", 40, _anything_for_a_hello)
    yield "TLS: the end of the handshake", State("tls", 8, _end_of_handshake)
    yield "TLS: who is refused", State("tls", 3, _who_is_refused)
    yield "TLS: changed records", State("tls", 6, _records)
    yield "TLS: other bytes", State("tls", 4, _other_bytes)


STATES: dict[str, State] = dict(_states())


def run(inputs: int, seed: int, warm: int = WARM) -> Figures:
    """Send so many inputs; return how many there were in each state, and what went wrong."""
    figures = Figures()
    chance = random.Random(seed)
    names = list(STATES)
    weights = [STATES[name].weight for name in names]
    with short_folder() as folder:
        attack = Attack(folder)
        try:
            _send(attack, inputs, names, weights, chance, figures, min(warm, inputs // 4))
            for target in attack.targets.values():
                target.close(figures)
        except BaseException:
            for target in attack.targets.values():
                target.kill()
            raise
    return figures


def _send(
    attack: Attack,
    inputs: int,
    names: list[str],
    weights: list[int],
    chance: random.Random,
    figures: Figures,
    warm: int,
) -> None:
    coming: deque[Peer] = deque()
    staying: deque[Peer] = deque()
    for n in range(inputs):
        name = names[n] if n < len(names) else chance.choices(names, weights)[0]
        try:
            peer = STATES[name].act(attack, chance)
        except (OSError, DurusError) as error:  # the server does not even take the sound part
            figures.violations.append(f"{name}: {error!r}")
            continue
        figures.counts[name] += 1
        if chance.random() < 0.01:
            staying.append(peer)
        else:
            peer.end_soon(chance)
            coming.append(peer)
        if len(staying) > STAYING:
            staying.popleft().socket.close()
        if len(coming) > AT_A_TIME:
            coming.popleft().finish()
        if n == warm:
            for target in attack.targets.values():
                target.before = target.figures()
        if n % 10_000 == 9_999:
            _report(n + 1, attack)
    for peer in coming:
        peer.finish()
    for peer in staying:
        peer.socket.close()


def _report(done: int, attack: Attack) -> None:
    told = ", ".join(
        f"{each.name} {each.figures()[0] >> 20} MiB {each.commits} commits" for each in attack.targets.values()
    )
    print(f"{done:,} inputs: {told}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    figures = run(options.inputs, options.seed)
    print(figures)
    print(f"{options.inputs:,} inputs in {time.monotonic() - began:.0f} s")
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
