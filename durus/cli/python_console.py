"""Python's own console, with readline where that is there. Statements CMD-30, CMD-31 and CMD-34."""

import code
import contextlib
import os
import rlcompleter
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from durus.cli.api_names import is_for_applications
from durus.cli.leaving import Leaving
from durus.cli.shell_errors import keep_as_last, one_line
from durus.error import DurusError
from durus.text import printable_lines

_HISTORY = os.path.join("~", ".durushistory")


def run_python(names: dict[str, Any], banner: str, leaving: Leaving) -> None:
    """Run a console until it ends and `leaving` allows it; SystemExit if it ends in that way."""
    names.update(exit=_Exit(), quit=_Exit())
    console = Console(names)
    with _completion(names):
        while True:
            ended = None
            try:
                console.interact(banner, exitmsg="")
            except SystemExit as error:
                ended = error
            if leaving.is_allowed():
                if ended is not None:
                    raise ended
                return
            banner = ""
            console.resetbuffer()  # otherwise it would continue with the line that ended it


class _Exit:
    """Ends the console, and unlike Python's own exit() keeps stdin open for a question that may follow."""

    def __repr__(self) -> str:
        return "Use exit() or Ctrl-D to exit"

    def __call__(self, status: int | str | None = None) -> NoReturn:
        raise SystemExit(status)


class Console(code.InteractiveConsole):
    def write(self, data: str) -> None:
        """Show errors unchanged, except for characters that would move the cursor. [OBJ-79]"""
        super().write(printable_lines(data))

    def showtraceback(self) -> None:
        """Show an expected error in one line, and keep it as Python does. [CMD-31]"""
        error = sys.exc_info()[1]
        if not isinstance(error, DurusError):
            super().showtraceback()
            return
        keep_as_last(error)
        self.write(one_line(error) + "\n")


class ApiCompleter(rlcompleter.Completer):
    """Completes the names that are for applications. [CMD-34]"""

    namespace: dict[str, Any]

    def attr_matches(self, text: str) -> list[str]:
        matches = super().attr_matches(text)
        expression, _, _ = text.rpartition(".")
        if not matches:
            return matches
        try:
            obj = eval(expression, self.namespace)
        except Exception:  # whatever the application's own attributes raise, there is nothing to complete
            return []
        return [match for match in matches if is_for_applications(obj, match[len(expression) + 1 :].rstrip("()"))]


@contextlib.contextmanager
def _completion(names: dict[str, Any]) -> Iterator[None]:
    """Add completion of names, and a history in a file, to a terminal."""
    if not sys.stdin.isatty():  # importing readline is enough to print on some terminals
        yield
        return
    try:
        import readline
    except ImportError:
        yield
        return
    history = os.path.expanduser(_HISTORY)
    readline.set_completer(ApiCompleter(names).complete)
    readline.parse_and_bind("tab: complete")
    with contextlib.suppress(OSError):  # there is none before the first console
        readline.read_history_file(history)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # without a writable home directory there is no history
            readline.write_history_file(history)
