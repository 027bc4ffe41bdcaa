"""Text from data, in a form that is safe to show. Statement OBJ-79."""


def printable(text: str) -> str:
    """Return text as one line that moves no cursor: unprintable characters become Python's escapes. [OBJ-79]"""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def printable_lines(text: str) -> str:
    """Return printable text that keeps its lines, for callers that lay out several lines."""
    return "\n".join(map(printable, text.split("\n")))
