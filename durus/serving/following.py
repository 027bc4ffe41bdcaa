"""Shows the clients of a server what another process writes to its file. Statements CMD-63 and CMD-67."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from durus.error import DurusError
from durus.serving.complaints import Complaints
from durus.sharing.session import SessionCore

_SECONDS_BETWEEN_LOOKS = 0.2


class Following:
    """Reads and checks in a thread what is new in the file, and takes it over in the loop.

    Args:
        core: shows what was read.
        complaints: where it is noted that the file can't be read.
        settle: does what the news have made possible.
    """

    def __init__(self, core: SessionCore, complaints: Complaints, settle: Callable[[], None]) -> None:
        self._core = core
        self._complaints = complaints
        self._settle = settle
        self._thread = ThreadPoolExecutor(1, "durus-follow")

    async def by_the_clock(self) -> None:
        """Look at the file again and again."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
            try:
                self._core.follow(await loop.run_in_executor(self._thread, self._core.look_ahead))
            except DurusError as error:
                self._complaints.note("what is new in the file can't be shown", error)
            self._settle()

    async def end(self) -> None:
        """Wait, while the loop continues, for a look that is in progress: after that the file can be closed."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Wait for the end of the thread."""
        self._thread.shutdown()
