"""What a command that runs until it is stopped says about errors that may pass."""

import sys
import time
from collections.abc import Callable

from durus.error import DurusError
from durus.text import printable


class Troubles:
    """Prints what is waited for, once for each reason."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._told: str | None = None

    def note(self, error: DurusError) -> None:
        """Report an error, unless it is the same as the last one."""
        text = printable(str(error))
        if text != self._told:
            self._told = text
            self._say(text)

    def end(self) -> None:
        """Report the next error, whatever it is."""
        self._told = None


def say_waiting(text: str) -> None:
    """Say on stderr what is waited for."""
    print(f"durus: waiting: {text}", file=sys.stderr, flush=True)


def pause(interval: float) -> bool:
    """Wait for a round of a command that ends on signals; return False: it was not the last one."""
    time.sleep(interval)
    return False
