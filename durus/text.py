"""Text from data, in a form that is safe to show. Statement OBJ-79."""

import re


def printable(text: str) -> str:
    """Return text as one line that moves no cursor: unprintable characters become Python's escapes. [OBJ-79]"""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def printable_lines(text: str) -> str:
    """Return printable text that keeps its lines, for callers that lay out several lines."""
    return "\n".join(map(printable, text.split("\n")))


_PASSWORD = re.compile(r"(://[^/@:]*):[^/@]*@")


def without_password(address: str) -> str:
    """Return an address as messages may show it: without a password, and without a query, which may have one, too."""
    head, separator, _ = address.partition("://")
    if not separator or "/" in head:
        return address
    return _PASSWORD.sub(r"\1@", address.partition("?")[0])
