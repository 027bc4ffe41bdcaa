"""When a server packs, and how: in steps, between which it serves clients. Statements TXN-25 and CMD-60 to CMD-62."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from durus.error import DurusError
from durus.progress import Progress
from durus.serving.counts import Counts
from durus.sharing.session import SessionCore
from durus.storage import Storage

_SECONDS_OF_PACKING = 0.002
"""How long a pack works between two writes, at most."""

_logger = logging.getLogger("durus")

OnEnd = Callable[[DurusError | None], None]
"""Takes None when a pack has ended, or the reason why it failed."""


class ServedFile:
    """How long the file of a storage is, and how much of that is garbage.

    Args:
        storage: the storage.
        path: its file, None if it has none.
    """

    def __init__(self, storage: Storage, path: str | None) -> None:
        self._storage = storage
        self.path = path

    def size(self) -> int | None:
        """Return the size in bytes; None if the storage has no file, or it was removed."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                return os.stat(self.path).st_size
        return None

    def garbage(self) -> int | None:
        """Return about how many of the bytes a pack would remove; None if that is not known."""
        usage = self._storage.usage
        return None if usage is None else usage.garbage

    def is_mostly_garbage(self, least: int) -> bool:
        """Return whether more than half of it is garbage, and at least this many bytes. [CMD-60]"""
        usage = self._storage.usage
        return usage is not None and usage.garbage >= least and 2 * usage.garbage > usage.size


class WhenToPack(NamedTuple):
    """When a server packs on its own; 0 in a field means never."""

    committed: int
    """After this many committed bytes."""
    seconds: float
    """The seconds between two packs, if anything was committed."""
    garbage: int
    """How many bytes of garbage there must be, when they are more than half of the file."""


class Packing:
    """The packs of a server, one at a time.

    Args:
        core: does the steps of a pack.
        file: the file that becomes shorter.
        counts: where the end of a pack is noted.
        run: runs a coroutine as a task, the unexpected failure of which stops the server.
        stopping: set when no further pack may begin.
        when: when to pack without being asked to.
    """

    def __init__(
        self,
        core: SessionCore,
        file: ServedFile,
        counts: Counts,
        run: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
        stopping: asyncio.Event,
        when: WhenToPack,
    ) -> None:
        self._core = core
        self._file = file
        self._counts = counts
        self._run = run
        self._stopping = stopping
        self._when = when
        self.bytes_since_pack = 0
        """How many bytes were committed since the last pack began."""
        self._task: asyncio.Task[None] | None = None
        self._steps: Iterator[Progress] | None = None
        self._began = 0.0
        self._has_packed = False
        self._waiting: list[OnEnd] = []
        self._waiting_for_next: list[OnEnd] = []
        """What is to be called at the end of the pack that is in progress, and of one that begins later."""

    @property
    def is_running(self) -> bool:
        """True from the start of a pack to its end."""
        return self._task is not None

    def note_commit(self, size: int) -> None:
        """Note a commit of `size` bytes, and pack if it is time to. [CMD-60]"""
        self.bytes_since_pack += size
        if (self._when.committed and self.bytes_since_pack > self._when.committed) or self._is_garbage_due():
            self.start()

    def _is_garbage_due(self) -> bool:
        least = self._when.garbage
        if not least or (self._has_packed and self.bytes_since_pack < least):
            return False  # a pack that fails does not begin again with each commit
        return self._file.is_mostly_garbage(least)

    def start(self, on_end: OnEnd | None = None) -> None:
        """Start a pack, if none is running. [WIRE-12]

        Args:
            on_end: called when a pack has ended that began now or later. [WIRE2-30]
        """
        if self._task is None:
            self._task = self._run(self._pack())
            waiting = self._waiting
        else:
            waiting = self._waiting_for_next
        if on_end is not None:
            waiting.append(on_end)

    def cancel(self) -> None:
        """End the pack that is in progress, which changes nothing."""
        if self._task is not None:
            self._task.cancel()

    async def by_the_clock(self) -> None:
        """Pack again and again, if anything was committed."""
        while self._when.seconds:
            await asyncio.sleep(self._when.seconds)
            if self.bytes_since_pack:
                self.start()

    def go_on_for_a_moment(self) -> None:
        """Make some progress after a write, because there is none during a write."""
        if self._steps is None:
            return
        until = time.monotonic() + _SECONDS_OF_PACKING
        while self._steps is not None and time.monotonic() < until:
            self._do_a_step()

    async def _pack(self) -> None:
        """Pack, and serve clients between two steps. [TXN-25]"""
        _logger.info("packing")
        self.bytes_since_pack = 0
        self._has_packed = True
        self._began = time.monotonic()
        beside = self._core.packer_beside()
        try:
            if beside is not None:
                await self._pack_beside(beside)
                return
            self._steps = self._core.gen_pack()
            while self._steps is not None:
                await asyncio.sleep(_SECONDS_OF_PACKING if self._core.is_writing else 0)
                if not self._core.is_writing:
                    self._do_a_step()
        finally:
            self._steps = self._task = None
            if self._waiting_for_next and not self._stopping.is_set():
                self._waiting, self._waiting_for_next = self._waiting_for_next, []
                self._task = self._run(self._pack())

    async def _pack_beside(self, steps: Generator[Progress, None, None]) -> None:
        """Pack by steps that wait for the answers of an engine: in a thread, so that nobody else waits. [PG-68]"""
        error = None
        loop = asyncio.get_running_loop()
        worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pack")
        try:
            while await loop.run_in_executor(worker, next, steps, None) is not None:
                pass
        except DurusError as found:
            error = found
        except asyncio.CancelledError:
            self._core.break_off_pack()
            raise
        finally:
            worker.submit(steps.close)  # after the step that may still be running
            worker.shutdown(wait=False)
        self._end(None, error)

    def _do_a_step(self) -> None:
        if self._steps is not None:
            before = self._file.size()
            try:
                next(self._steps)
            except StopIteration:
                self._end(before, None)
            except DurusError as error:
                self._end(before, error)

    def _end(self, before: int | None, error: DurusError | None) -> None:
        """Note, log and report the end of the pack; `before` is the size of the file before its last step. [CMD-62]"""
        self._steps = None
        after = self._file.size()
        pack = self._counts.note_pack(time.monotonic(), self._began, before, after, error)
        if error is not None:
            _logger.error("the pack failed: %s", error)
        elif pack.freed is None:
            _logger.info("packed in %.1f s", pack.seconds)
        else:
            _logger.info("packed in %.1f s: %d bytes freed, %d left", pack.seconds, pack.freed, after)
        waiting, self._waiting = self._waiting, []
        for on_end in waiting:
            on_end(error)
