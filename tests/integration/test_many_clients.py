"""A hundred clients at once, in threads of a few processes, on one server."""

import subprocess
import sys
from pathlib import Path

from durus.connection import Connection
from durus.files.file import OperatingSystem
from durus.files.shelf.inspection import ShelfInspection
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from tests.integration.serving import SECONDS, serving

PROCESSES = 4
CLIENTS = 25
"""In each process."""
COMMITS = 20
OBJECTS = 1000

CLIENT_PROGRAM = """
import sys, threading
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ConflictError

port, first, clients, commits = map(int, sys.argv[1:])

def work(number):
    connection = Connection(ClientStorage(port=port))
    root = connection.get_root()
    assert sum(item["n"] for item in root["items"]) == sum(range(len(root["items"])))
    for _ in range(commits - 1):
        root["own"][number]["count"] += 1
        connection.commit()
    while True:
        try:
            with connection.transaction():
                root["shared"][number % 10]["count"] += 1
            break
        except ConflictError:
            continue
    connection.close()

threads = [threading.Thread(target=work, args=(first + n,)) for n in range(clients)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def counters(count: int) -> "PersistentList[PersistentDict[str, int]]":
    return PersistentList(PersistentDict({"count": 0}) for _ in range(count))


def test_a_hundred_clients_load_and_commit_and_their_counts_add_up(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        root = connection.get_root()
        root["items"] = PersistentList(PersistentDict({"n": n}) for n in range(OBJECTS))
        root["own"] = counters(PROCESSES * CLIENTS)
        root["shared"] = counters(10)
        connection.commit()
    with serving("--file", "f", "--gcinterval", "1", folder=tmp_path) as server:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", CLIENT_PROGRAM, str(server.port), str(n * CLIENTS), str(CLIENTS), str(COMMITS)],
                stderr=subprocess.PIPE,
            )
            for n in range(PROCESSES)
        ]
        for process in processes:
            assert process.communicate(timeout=2 * SECONDS)[1] == b""
            assert process.returncode == 0
    with Connection(tmp_path / "f") as connection:
        own, shared = ([counter["count"] for counter in connection.get_root()[name]] for name in ("own", "shared"))
        assert own == [COMMITS - 1] * PROCESSES * CLIENTS
        assert shared == [PROCESSES * CLIENTS // 10] * 10
    file = OperatingSystem().open(str(tmp_path / "f"), "read")
    assert list(ShelfInspection(file).findings()) == []
    file.close()
