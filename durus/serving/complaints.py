"""What goes wrong on a server outside of any client. Statement WIRE-41."""

import logging
import re
import time

from durus.error import DurusError

_SECONDS_BETWEEN_COMPLAINTS = 60.0
"""How long a complaint of one kind is not logged again."""

_ADDRESS = re.compile(r"0x[0-9a-f]+")
"""What differs from one object to the next in a message of asyncio."""

_logger = logging.getLogger("durus")


class Complaints:
    """Logs what went wrong in one line, and does not repeat it all the time. [WIRE-41]"""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}
        """When each kind was logged."""

    def note(self, message: str, error: BaseException | None) -> None:
        """Log a complaint, unless one of this kind was logged a short time ago."""
        now = time.monotonic()
        kind = _ADDRESS.sub("", message)
        if now - self._logged.get(kind, -_SECONDS_BETWEEN_COMPLAINTS) >= _SECONDS_BETWEEN_COMPLAINTS:
            self._logged[kind] = now
            is_expected = error is None or isinstance(error, OSError | DurusError)
            _logger.error("%s: %s", message, error, exc_info=None if is_expected else error)
