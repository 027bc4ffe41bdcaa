"""Handles uncommitted changes at the end of the shell. Statement CMD-33."""

import sys
import traceback

from durus.cli.output import tell
from durus.cli.shell_errors import one_line
from durus.connection import Connection
from durus.error import DurusError
from durus.text import printable_lines

_QUESTION = "Commit now? [y]es, [n]o: forget the changes, [s]tay here: "  # short, because readline scrolls a long one


class Leaving:
    """Asks on a terminal what to do with the changes, and otherwise warns."""

    def __init__(self, connection: Connection, is_terminal: bool, is_readonly: bool) -> None:
        self._connection = connection
        self._is_terminal = is_terminal
        self._is_readonly = is_readonly

    def is_allowed(self) -> bool:
        """Return whether the shell may end; commit first if that is the answer."""
        count = len(self._connection.changed)
        if not count or self._is_readonly:
            return True
        what = "1 changed object is" if count == 1 else f"{count} changed objects are"
        answer = None
        if self._is_terminal:
            tell(f"{what} not committed.")
            answer = _ask()
        if answer == "y":
            return self._commit()
        if answer is None:
            tell(f"durus: warning: {what} not committed, and the changes are forgotten", file=sys.stderr)
        return answer != "s"

    def _commit(self) -> bool:
        try:
            self._connection.commit()
        except DurusError as error:
            print(one_line(error), file=sys.stderr)
            return False
        except Exception:  # from an application's own __getstate__: the changes still exist
            print(printable_lines(traceback.format_exc()), end="", file=sys.stderr)
            return False
        return True


def _ask() -> str | None:
    """Return y, n or s, None at the end of the input. Control-C is s."""
    while True:
        try:
            answer = input(_QUESTION).strip().lower()[:1]
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            return "s"
        if answer and answer in "yns":
            return answer
