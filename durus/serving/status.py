"""What a server reports about itself, as numbers and as JSON. Statements WIRE2-34 to WIRE2-36."""

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from durus import __version__
from durus.error import DurusError
from durus.oid import oid_to_int
from durus.records.record import data_of, parse_class_pickle
from durus.serving.client import ServedClient
from durus.serving.counts import Counts, LastPack, Measures, Traffic
from durus.serving.limits import Limits
from durus.serving.packing import Packing, ServedFile
from durus.sharing.session import SessionCore
from durus.text import printable

MAX_CLIENTS_SHOWN = 100
_MAX_TEXT = 500
"""How many characters a text may have that comes from a client or from data."""


class Served(NamedTuple):
    """What a server serves, and where."""

    address: str
    file: str | None
    """The file of the storage; None if it has none."""
    process: int
    limits: Limits
    """What clients may have."""


def traffic(counts: Counts, clients: Collection[ServedClient]) -> Traffic:
    """Return the traffic of the connections that have ended and of those that there are."""
    return Traffic(
        counts.loads + sum(client.loads for client in clients),
        counts.received + sum(client.received for client in clients),
        counts.sent + sum(client.sent for client in clients),
    )


def measure(
    counts: Counts, clients: Collection[ServedClient], file: ServedFile, packing: Packing, now: float
) -> Measures:
    """Return the numbers of a server at one moment."""
    pack = counts.last_pack
    return Measures(
        counts,
        traffic(counts, clients),
        uptime=now - counts.began,
        size=file.size(),
        garbage=file.garbage(),
        clients=sum(client.refusal is None for client in clients),
        snapshots=sum(client.holds_snapshot for client in clients),
        is_packing=packing.is_running,
        bytes_since_pack=packing.bytes_since_pack,
        seconds_since_pack=None if pack is None else now - pack.ended,
    )


def status(
    served: Served,
    measures: Measures,
    core: SessionCore,
    clients: Collection[ServedClient],
    now: float,
    asking: ServedClient | None = None,
) -> dict[str, object]:
    """Return what a server does. [WIRE2-35]

    Args:
        served: what it serves.
        measures: its numbers.
        core: its session core.
        clients: the connections that there are.
        now: the time.
        asking: the connection that asks.
    """
    counts = measures.counts
    served_clients = [client for client in clients if client.refusal is None]
    return {
        "durus": __version__,
        "process": served.process,
        "address": _safe(served.address),
        "file": None if served.file is None else _safe(served.file),
        "size": measures.size,
        "garbage": measures.garbage,
        "uptime": measures.uptime,
        "commits": {
            "count": counts.commits,
            "objects": counts.committed_objects,
            "bytes": counts.committed_bytes,
            "seconds": counts.commit_seconds.as_json(),
        },
        "writes": {"failed": counts.failed_writes, "seconds": counts.write_seconds.as_json()},
        "conflicts": _conflicts(counts, core),
        **measures.traffic._asdict(),
        "pack": {
            "running": measures.is_packing,
            "bytes_since": measures.bytes_since_pack,
            "last": None if counts.last_pack is None else _pack(counts.last_pack, now),
        },
        "copies": {
            "count": counts.copies,
            "ago": None if counts.last_copied is None else now - counts.last_copied,
        },
        "connections": counts.connections,
        "refused": counts.refused,
        "limits": served.limits._asdict(),
        "clients": {"count": len(served_clients), "shown": _clients(served_clients, now, asking)},
    }


def _clients(clients: Collection[ServedClient], now: float, asking: ServedClient | None) -> list[dict[str, object]]:
    oldest = sorted(clients, key=lambda client: client.since)[:MAX_CLIENTS_SHOWN]
    return [
        {
            "name": _safe(str(client)),
            "role": client.role.name.lower(),
            "seconds": now - client.since,
            "doing": "asks for this" if client is asking else client.doing,
            "snapshot": client.holds_snapshot,
            "loads": client.loads,
            "received": client.received,
            "sent": client.sent,
        }
        for client in oldest
    ]


def _conflicts(counts: Counts, core: SessionCore) -> dict[str, object]:
    oids = []
    by_class: Counter[str] = Counter()
    for oid, number in counts.conflicting.most_frequent():
        name = _class_name(core, oid)
        oids.append({"oid": oid_to_int(oid), "class": name, "count": number})
        by_class[name or "(unknown)"] += number
    classes = [{"name": name, "count": number} for name, number in by_class.most_common()]
    return {"count": counts.conflicts, "given_up": counts.given_up, "oids": oids, "classes": classes}


def _class_name(core: SessionCore, oid: bytes) -> str | None:
    """Return the class of an object; None if it has no record, or its record does not begin as usual ones do."""
    try:
        found = parse_class_pickle(data_of(core.storage.load(oid)))
    except DurusError:
        return None
    return None if found is None else _safe(f"{found.module}.{found.name}")


def _pack(pack: LastPack, now: float) -> dict[str, object]:
    return {
        "ago": now - pack.ended,
        "seconds": pack.seconds,
        "freed": pack.freed,
        "error": None if pack.error is None else _safe(pack.error),
    }


def _safe(text: str) -> str:
    """Return a text in one line without control characters, and not too long. [WIRE2-36]"""
    return printable(text[:_MAX_TEXT])
