"""What the tests of Database and of shared storages share."""

import threading
from collections.abc import Callable
from typing import Any

from durus.persistent_dict import PersistentDict

Root = PersistentDict[str, Any]
SECONDS = 60
"""How long to wait at most for anything."""


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run work(0), work(1), ... at the same time; raise what one of them raised."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    if failures:
        raise failures[0]
