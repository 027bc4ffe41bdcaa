"""How the shell shows errors that Durus raises on purpose. Statement CMD-31."""

import sys

from durus.error import DurusError
from durus.text import printable


def one_line(error: DurusError) -> str:
    """Return the class and the text of an error."""
    return f"{type(error).__name__}: {printable(str(error))}"


def keep_as_last(error: BaseException) -> None:
    """Keep an error, with its traceback, where Python's own console keeps the last one."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
