"""The one thread that reads the database: the index, a little at a time, and between that what pages need."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from durus.browser.source import Source
from durus.browser.view import View

T = TypeVar("T")

_SECONDS_AT_A_TIME = 0.05
"""How long a page may wait for the index, apart from a single step."""


class Reader:
    """Opens a database, and reads it. A storage of SQLite can only be used in the thread that has opened it."""

    def __init__(self, opener: Callable[[], Source]) -> None:
        """DurusError as raised by `opener`."""
        self._opener = opener
        self._executor = ThreadPoolExecutor(1, "durus-browse")
        self._is_closing = False
        self.complete = threading.Event()
        """Set when everything is known of the database, or never will be."""
        self._view: View
        try:
            self._executor.submit(self._open).result()
        except BaseException:
            self._executor.shutdown()
            raise

    async def ask(self, work: Callable[[View], T]) -> T:
        """Return the result of `work` in the thread."""
        return await asyncio.wrap_future(self._executor.submit(self._run, work))

    async def open_again(self) -> None:
        """Start over with the present state of the database. If it can't be opened, the old one stays."""
        await asyncio.wrap_future(self._executor.submit(self._open_again))

    def close(self) -> None:
        """Close the database, and end the thread."""
        self._is_closing = True
        self._executor.submit(lambda: self._view.source.close()).result()
        self._executor.shutdown()

    def _run(self, work: Callable[[View], T]) -> T:
        self._view.source.renew()
        return work(self._view)

    def _open(self) -> None:
        view = View(self._opener())
        self._view = view
        self.complete.clear()
        self._executor.submit(self._advance, view, view.steps())

    def _open_again(self) -> None:
        old = self._view
        self._open()
        old.source.close()

    def _advance(self, view: View, steps: Iterator[None]) -> None:
        end = time.monotonic() + _SECONDS_AT_A_TIME
        try:
            for _ in steps:
                if self._is_closing or view is not self._view:
                    return
                if time.monotonic() >= end:
                    self._executor.submit(self._advance, view, steps)
                    return
        except Exception as error:  # the pages show it, instead of a progress that never ends
            view.failure, view.progress = f"{type(error).__name__}: {error}", None
        self.complete.set()
