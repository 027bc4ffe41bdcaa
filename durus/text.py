"""Text from data, as it may be shown. Statement OBJ-79."""


def printable(text: str) -> str:
    """Return text in one line that moves no cursor: what is not printable stands as an escape of Python's. [OBJ-79]"""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def printable_lines(text: str) -> str:
    """Return printable text whose lines stay lines, for what lays out text of several."""
    return "\n".join(map(printable, text.split("\n")))
