"""Text from data, in a form that is safe to show. Statements OBJ-79 and CMD-70."""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def printable(text: str) -> str:
    """Return text as one line that moves no cursor: unprintable characters become Python's escapes. [OBJ-79]"""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def printable_lines(text: str) -> str:
    """Return printable text that keeps its lines, for callers that lay out several lines."""
    return "\n".join(map(printable, text.split("\n")))


def listed(items: Sequence[T], most: int, text_of: Callable[[T], str] = str) -> str:
    """Return the texts of the first items with commas between them, and how many more there are than `most`."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(text_of, items[:most])) + more


_WHERE = {"dbname", "host", "hostaddr", "port", "schema", "service", "user"}
"""The parameters in the query of an address that tell where a database is."""
_PASSWORD = re.compile(r"(://[^/@:]*):[^/@]*@")


def without_password(address: str) -> str:
    """Return an address as messages may show it: without a password, and of a query only what tells where it is.

    The rest of a query may have a password, too, and one in a parameter with a wrong name. [CMD-5]
    """
    head, separator, _ = address.partition("://")
    if not separator or "/" in head:
        return address
    start, _, query = address.partition("?")
    shown = "&".join(each for each in query.split("&") if each.partition("=")[0] in _WHERE)
    return _PASSWORD.sub(r"\1@", start) + (f"?{shown}" if shown else "")


def command(name: str, *files: str) -> str:
    """Return a command of Durus as messages show it: complete, so that it can be pasted into a shell. [CMD-70]

    Args:
        name: the name of the command, and options.
        files: its files or addresses.
    """
    return f"`durus {' '.join([name, *map(quoted_file, files)])}`"


def command_line(name: str, words: Iterable[str]) -> str:
    """Return a call of Durus with these words, to paste; passwords in addresses are left out. [CMD-70]"""
    return f"`durus {' '.join([name, *(_quoted(without_password(word)) for word in words)])}`"


def quoted_file(path: str) -> str:
    """Return the path of a file as one word of a shell that is not an option. [CMD-70]"""
    if path.startswith("-"):
        path = f"./{path}"
    return _quoted(path)


def _quoted(path: str) -> str:
    if path.isprintable():
        return shlex.quote(path)
    return "$'" + "".join(map(_in_ansi_quotes, path)) + "'"


def _in_ansi_quotes(one: str) -> str:
    if one in "'\\":
        return f"\\{one}"
    return one if one.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(one))
