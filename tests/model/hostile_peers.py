"""Hostile clients in every state of TLS and of both protocols, against servers in processes of their own.

    python -m tests.model.hostile_peers --inputs N --seed S

An input is what an attacker sends in one state; STATES has them all. Meanwhile another client commits, and loads what
it has committed. No server may crash, log more than a line for a fault, or keep memory, descriptors or connections.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
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
LOOKS = 20
"""How often in a run it is noted what the servers hold; after a quarter of it, they are warm."""
LEAST_BETWEEN_LOOKS = 1000
PACKED_AFTER = 4 << 20
"""After how many committed bytes the servers pack."""
MAX_BLOCKS_MORE = 2000
"""How many more blocks of Python's memory than when it was warm a server may hold at the end."""
MAX_BYTES_MORE = 2 << 20
"""The same for the bytes that malloc() has given out."""
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


class Held(NamedTuple):
    """What a server holds while nobody but the other client is connected, and two small objects are stored."""

    blocks: int
    bytes: int
    types: dict[str, int]
    memory: int
    """How many bytes are resident: these vary with the holes in them."""
    files: int

    def __str__(self) -> str:
        return f"{self.blocks:,} blocks, {self.bytes:,} bytes, {self.files} files, {self.memory >> 10:,} KiB resident"

    def more_than(self, before: "Held") -> str:
        """Return what there is more of than before; "" if no leak explains it."""
        is_more = (
            self.blocks > before.blocks + MAX_BLOCKS_MORE
            or self.bytes > before.bytes + MAX_BYTES_MORE
            or self.files > before.files
        )
        grown = (Counter(self.types) - Counter(before.types)).most_common(8)
        return f"it had {before}, and has {self}; more objects: {grown}" if is_more else ""


class Target:
    """A server, and the other client that uses it all the time."""

    def __init__(self, folder: Path, name: str, options: Sequence[str], certificates: Certificates | None) -> None:
        self.name = name
        self.file = folder / f"{name}.durus"
        self.log = folder / f"{name}.log"
        always = ("--port", "0", "--file", str(self.file), "--logfile", str(self.log), "--logginglevel", "30")
        limits = ("--commit-timeout", str(COMMIT_TIMEOUT), "--stall-timeout", str(STALL_TIMEOUT))
        packs = ("--gcbytes", str(PACKED_AFTER))
        self._told = folder / f"{name}.held"
        python = (str(Path(__file__).with_name("counted.py")), str(self._told))
        self._server = Server(*always, *limits, *packs, *options, folder=folder, python=python)
        self.port = self._server.port
        self._process = Path(f"/proc/{self._server.process.pid}")
        self.problems: list[str] = []
        self.commits = self.conflicts = self.lost_by_packs = 0
        self.longest = 0.0
        self.held: list[Held] = []
        self._stop = threading.Event()
        self._using = threading.Lock()
        """Held by the one that uses the client."""
        self._oid = ROOT_OID
        address: HostPortAddress = HostPortAddress("127.0.0.1", self.port)
        if certificates is not None:
            ca, cert = certificates("ca"), certificates("admin")
            address = TlsAddress("127.0.0.1", self.port, tls_ca=ca, tls_cert=cert, tls_server_name="localhost")
        self._other = ClientStorage(address=address, timeout=SECONDS)
        self._thread = threading.Thread(target=self._use)
        self._thread.start()

    def _use(self) -> None:
        """Commit one value after the other, and load it again: what is acknowledged must be there."""
        try:
            for _ in range(OTHER_OIDS):
                self._oid = self._other.new_oid()
            while not self._stop.wait(0.02):
                with self._using:
                    self._commit_and_load(self.commits)
        except Exception as error:
            self.problems.append(f"{self.name}: the other client was harmed: {error!r}")

    def _commit_and_load(self, value: object) -> None:
        client, oid = self._other, self._oid
        own = pack_record(oid, _state(value), b"")
        root = pack_record(ROOT_OID, _state(Ref(int.from_bytes(oid), PersistentDict)), oid)
        began = time.monotonic()
        client.begin()
        client.store(ROOT_OID, root)
        client.store(oid, own)
        is_stored = True
        try:
            client.end()
        except WriteConflictError:  # of the root, which attackers may write
            self.conflicts += 1
            is_stored = False
        else:
            self.longest = max(self.longest, time.monotonic() - began)
            self.commits += 1
        client.sync()
        try:
            found = client.load(oid)
        except DurusKeyError:  # an attacker has put another root, and a pack has taken the object
            if client.load(ROOT_OID) == root:
                raise
            self.lost_by_packs += 1
            self._oid = client.new_oid()
        else:
            if is_stored and found != own:
                raise RuntimeError(f"it has committed {own!r}, and loads {found!r}")

    def look(self) -> None:
        """Note what the server holds, after the attackers have gone and all that they have stored was removed."""
        with self._using:
            for value in ("packed " * (PACKED_AFTER // 7 + 1), self.commits):
                self._commit_and_load(value)
                if not _within(SECONDS, lambda: not self._is_packing()):
                    raise RuntimeError(f"{self.name}: a pack of two objects does not end")
            if not _within(SECONDS, self._is_alone):
                files = sorted(os.readlink(each) for each in self._files())
                self.problems.append(f"{self.name}: what attackers have opened stays open: {files}, {self._clients()}")
            self._told.unlink(missing_ok=True)
            self._server.process.send_signal(signal.SIGUSR1)
            if not _within(SECONDS, self._told.exists):
                raise RuntimeError(f"{self.name}: the server does not tell what it holds")
            (line,) = re.findall(r"VmRSS:\s*(\d+) kB", (self._process / "status").read_text())
            figures = json.loads(self._told.read_text())
            self.held.append(Held(**figures, memory=int(line) << 10, files=len(self._files())))

    def _is_alone(self) -> bool:
        """Return whether nobody else is connected, nor was let in by the kernel only."""
        return self._clients()["count"] == 1 and (not self.held or len(self._files()) <= self.held[0].files)

    def _files(self) -> list[Path]:
        return list((self._process / "fd").iterdir())

    def _clients(self) -> dict[str, object]:
        clients = self._other.server_status()["clients"]
        assert isinstance(clients, dict)
        return clients

    def _is_packing(self) -> bool:
        pack = self._other.server_status()["pack"]
        assert isinstance(pack, dict)
        return bool(pack["running"])

    def close(self, figures: Figures) -> None:
        """End the server, and check what is left of it."""
        self._stop.set()
        self._thread.join(SECONDS)
        name, clients = self.name, self._clients()["count"]
        first, last = self.held[1 + len(self.held) // 4], self.held[-1]
        figures.counts[f"{name}: commits of the other client"] += self.commits
        figures.counts[f"{name}: its conflicts about the root"] += self.conflicts
        figures.counts[f"{name}: its longest commit, in ms"] = int(1000 * self.longest)
        figures.counts[f"{name}: KiB of memory before"] = first.memory >> 10
        figures.counts[f"{name}: KiB of memory after"] = last.memory >> 10
        for what in ("blocks", "bytes", "files"):
            figures.counts[f"{name}: {what} held before"] = getattr(first, what)
            figures.counts[f"{name}: {what} held after"] = getattr(last, what)
        problems = figures.violations
        problems += self.problems
        if clients != 1:
            problems.append(f"{name}: {clients} clients are connected, and all but one have gone")
        if not self.commits:
            problems.append(f"{name}: the other client has committed nothing")
        if leak := last.more_than(first):
            problems.append(f"{name}: {leak}")
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
        """End the server after an error, and show what may explain it."""
        self._stop.set()
        print(self.name, *self.problems, self._server.log.text, sep="\n", file=sys.stderr)
        print(*self.log.read_text(encoding="utf-8").splitlines()[-20:], sep="\n", file=sys.stderr)
        self._server.process.kill()
        self._server.wait()
        self._thread.join(SECONDS)


def _within(seconds: float, is_so: Callable[[], bool]) -> bool:
    """Wait until it is so; return False if it is not within this many seconds."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


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


def run(inputs: int, seed: int) -> Figures:
    """Send this many inputs; return how many there were in each state, and what went wrong."""
    figures = Figures()
    chance = random.Random(seed)
    weights = [state.weight for state in STATES.values()]
    names = [*STATES, *chance.choices(list(STATES), weights, k=max(0, inputs - len(STATES)))]
    with short_folder() as folder:
        attack = Attack(folder)
        try:
            for target in attack.targets.values():
                target.look()
            size = max(LEAST_BETWEEN_LOOKS, inputs // LOOKS)
            for start in range(0, inputs, size):
                _send(attack, names[start : start + size], chance, figures)
                for target in attack.targets.values():
                    target.look()
                _report(min(start + size, inputs), attack)
            for target in attack.targets.values():
                target.close(figures)
        except BaseException:
            for target in attack.targets.values():
                target.kill()
            raise
    return figures


def _send(attack: Attack, names: Sequence[str], chance: random.Random, figures: Figures) -> None:
    """Send an input in each of these states, and let all attackers go."""
    coming: deque[Peer] = deque()
    staying: deque[Peer] = deque()
    for name in names:
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
    for peer in coming:
        peer.finish()
    for peer in staying:
        peer.socket.close()


def _report(done: int, attack: Attack) -> None:
    for each in attack.targets.values():
        print(f"{done:,} inputs: {each.name} {each.held[-1]}, {each.commits} commits", file=sys.stderr, flush=True)


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
