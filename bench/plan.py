"""What is measured: the workloads of the folder worker, with their sizes, drivers and targets."""

from typing import NamedTuple

HERE = "durus5"
PLAIN = "durus5_plain"
DURUS_4 = "durus4"
ZODB = "zodb_peer"
RELSTORAGE = "relstorage_peer"
SQLITE = "sqlite"
LMDB = "lmdb_peer"
LIMITS = "limits"

TITLES = {
    HERE: "Durus",
    PLAIN: "Durus without uvloop",
    DURUS_4: "Durus 4.3",
    ZODB: "ZODB",
    RELSTORAGE: "RelStorage",
    SQLITE: "sqlite3",
    LMDB: "LMDB",
    LIMITS: "limit",
}


class Target(NamedTuple):
    """How many times better the result must be than that of another driver."""

    ratio: float
    over: str
    metric: str = ""
    """`workload.metric` of the other result, if it is not that of the row."""


class Row(NamedTuple):
    """One line of the table. For the metric per_second more is better, for all others less is better."""

    metric: str
    title: str
    unit: str
    targets: tuple[Target, ...] = ()
    at_most: float | None = None
    """A target for the figure itself."""

    @property
    def more_is_better(self) -> bool:
        return self.metric == "per_second"


class Workload(NamedTuple):
    """A workload, run by each driver in a process of its own."""

    name: str
    size: int
    durability: str
    """What a commit waits for, in all drivers; empty if nothing is committed."""
    drivers: tuple[str, ...]
    rows: tuple[Row, ...]


_OBJECTS = (HERE, DURUS_4, ZODB)
_STORES = (*_OBJECTS, RELSTORAGE)
_TABLES = (*_STORES, SQLITE, LMDB, LIMITS)

GROWTH = (1_000, 10_000, 100_000, 1_000_000)
"""The numbers of objects from which the plot of the growth is made."""


def _growth_rows(name: str, count: int) -> tuple[Row, ...]:
    is_largest = count == GROWTH[-1]
    targets = (Target(0.85, HERE, f"{name}@10000.per_second"),) if is_largest else ()
    rows = [Row("per_second", f"{name} of {count:,}", "objects/CPU s", targets)]
    if name == "pack":
        title = f"memory that a pack of {count:,} adds"
        rows.append(Row("memory_bytes", title, "bytes/object", at_most=16 if is_largest else None))
    return tuple(rows)


WORKLOADS = (
    Workload(
        "read",
        1_000_000,
        "",
        (*_OBJECTS, LIMITS),
        (Row("ns", "read an attribute", "CPU ns", (Target(1.2, DURUS_4), Target(1.2, ZODB), Target(0.4, LIMITS))),),
    ),
    Workload(
        "touch",
        50_000,
        "",
        _OBJECTS,
        (Row("ns", "first read in a transaction", "CPU ns", (Target(5, DURUS_4), Target(1.3, ZODB))),),
    ),
    Workload(
        "write",
        50_000,
        "",
        (*_OBJECTS, LIMITS),
        (
            Row("dirty_ns", "write to a changed object", "CPU ns", (Target(2.5, DURUS_4), Target(1.3, ZODB))),
            Row("first_ns", "first write in a transaction", "CPU ns", (Target(3, DURUS_4), Target(1.3, ZODB))),
        ),
    ),
    Workload(
        "insert",
        100_000,
        "fsync",
        _TABLES,
        (
            Row("per_second", "insert, in commits of 1,000", "objects/CPU s", (Target(5, ZODB), Target(0.8, SQLITE))),
            Row("bytes", "bytes on disk", "bytes/object", (Target(1.3, ZODB),)),
        ),
    ),
    Workload(
        "traversal",
        100_000,
        "",
        _TABLES,
        (
            Row("per_second", "cold traversal of a file", "objects/CPU s", (Target(6, ZODB), Target(1.5, SQLITE))),
            Row("memory_bytes", "memory that a traversal adds", "bytes/object", (Target(1, ZODB),)),
        ),
    ),
    Workload(
        "commit_os",
        5_000,
        "none",
        _TABLES,
        (
            Row("per_second", "small commits without fsync", "commits/CPU s", (Target(6, DURUS_4), Target(6, ZODB))),
            Row("bytes", "bytes that a small commit adds to the file", "bytes", (Target(1, ZODB),)),
        ),
    ),
    Workload(
        "commit_fsync",
        1_000,
        "fsync",
        _TABLES,
        (
            Row(
                "per_second",
                "small commits with fsync",
                "commits/s",
                (Target(1.3, DURUS_4), Target(1.3, ZODB), Target(0.8, LIMITS)),
            ),
        ),
    ),
    Workload(
        "large_record",
        1 << 24,
        "none",
        (HERE, ZODB, RELSTORAGE),  # Durus 4.3 takes 40 seconds
        (Row("times", "memory that a commit of 16 MiB adds, over its size", "times", at_most=2.5),),
    ),
    Workload(
        "pack",
        100_000,
        "fsync",
        _STORES,
        (
            Row("per_second", "pack, half of it garbage", "objects/CPU s", (Target(3, ZODB),)),
            Row("memory_bytes", "memory that a pack adds", "bytes/object", (Target(1, ZODB),)),
        ),
    ),
    Workload(
        "open_unpacked",
        1_000_000,
        "",
        (HERE, DURUS_4),
        (
            Row("ns", "open an unpacked file", "CPU ns/record", (Target(6, DURUS_4),), at_most=150),
            Row("memory_bytes", "memory that opening an unpacked file adds", "bytes/record", at_most=40),
        ),
    ),
    Workload(
        "open_packed",
        1_000_000,
        "",
        (HERE, DURUS_4),
        (
            Row("ms", "open a packed file", "CPU ms"),
            Row("times", "the same, over one of a tenth of its size", "times"),
        ),
    ),
    Workload(
        "tree",
        100_000,
        "none",
        (*_STORES, LMDB),
        (
            Row("insert_ns", "BTree: insert", "CPU ns", (Target(5, DURUS_4), Target(1, ZODB))),
            Row("lookup_ns", "BTree: look up", "CPU ns", (Target(5, DURUS_4), Target(1.2, ZODB))),
            Row("iterate_ns", "BTree: iterate", "CPU ns/item", (Target(5, DURUS_4), Target(1, ZODB))),
            Row("range_ns", "BTree: ranges of 100", "CPU ns/item", (Target(5, DURUS_4), Target(1, ZODB))),
            Row("cold_ns", "BTree: look up in a file just opened", "CPU ns", (Target(4, DURUS_4), Target(1.5, ZODB))),
        ),
    ),
    Workload(
        "tree_commits",
        20_000,
        "none",
        (*_STORES, LMDB),
        (Row("ns", "BTree: insert, in commits of 1,000", "CPU ns", (Target(8, DURUS_4), Target(4, ZODB))),),
    ),
    Workload(
        "server_load",
        5_000,
        "",
        (HERE, PLAIN, DURUS_4, ZODB, LIMITS),
        (Row("per_second", "server: loads, one by one", "loads/s", (Target(1.5, DURUS_4),)),),
    ),
    Workload(
        "server_traversal",
        20_000,
        "",
        _OBJECTS,
        (
            Row(
                "per_second",
                "server: traversal (4.3: its crawler)",
                "objects/s",
                (Target(6, DURUS_4), Target(10, HERE, "server_load.per_second")),
            ),
        ),
    ),
    *(
        Workload(
            f"server_commit_{clients}",
            count,
            "fsync",
            (HERE, PLAIN, DURUS_4, ZODB, *((LIMITS,) if clients == 1 else ())),
            (
                Row("per_second", f"server: commits by {clients}", "commits/s", (Target(ratio, DURUS_4),)),
                Row("p50_ms", f"server: commits by {clients}, p50", "ms"),
                Row(
                    "p99_ms",
                    f"server: commits by {clients}, p99",
                    "ms",
                    (Target(2.5, DURUS_4),) if clients == 16 else (),
                ),
            ),
        )
        for clients, count, ratio in ((1, 500, 1.3), (4, 200, 2), (16, 100, 3))
    ),
    Workload(
        "contended",
        1_600,
        "fsync",
        (HERE, DURUS_4),
        (Row("per_second", "server: one counter, by 16", "increments/s", (Target(3, DURUS_4),)),),
    ),
    Workload(
        "fairness",
        10_000,
        "fsync",
        (HERE, DURUS_4),
        (Row("times", "server: mean commits of 50 clients, over the fewest", "times", at_most=2),),
    ),
    Workload(
        "connections",
        1_000,
        "fsync",
        (HERE, DURUS_4),
        (
            Row("p50_ms", "server: 1,000 clients that commit once a second, p50", "ms"),
            Row("p99_ms", "server: 1,000 clients that commit once a second, p99", "ms", at_most=50),
        ),
    ),
    Workload(
        "idle",
        4_000,
        "",
        (HERE,),  # a server of Durus 4.3 waits by select(), which takes 1,024 descriptors
        (Row("bytes", "server: memory of an idle client, of 4,000", "bytes", at_most=20_000),),
    ),
    Workload(
        "report",
        50_000,
        "fsync",
        (HERE,),
        (
            Row("alone_s", "server: a report over all objects", "s"),
            Row(
                "beside_s",
                "server: the same beside 20 commits a second",
                "s",
                (Target(1 / 1.2, HERE, "report.alone_s"),),
            ),
        ),
    ),
    Workload(
        "memory",
        50_000,
        "",
        _OBJECTS,
        (
            Row("ghost_bytes", "memory of a ghost", "bytes", (Target(1.3, ZODB),)),
            Row("loaded_bytes", "memory of a loaded object", "bytes", (Target(1.3, ZODB),)),
        ),
    ),
    *(
        Workload(name, count, "fsync" if name != "traversal" else "", (HERE,), _growth_rows(name, count))
        for name in ("insert", "traversal", "pack")
        for count in GROWTH
        if count != 100_000  # which is above
    ),
)


def label(workload: Workload) -> str:
    """Return the unique name of a workload."""
    sizes = [other.size for other in WORKLOADS if other.name == workload.name]
    return workload.name if workload.size == sizes[0] else f"{workload.name}@{workload.size}"
