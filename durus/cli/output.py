"""What commands print."""

import sys
from typing import TextIO

from durus.text import printable


def tell(line: str, file: TextIO | None = None, *, flush: bool = False) -> None:
    """Print one line, in which nothing from data can move the cursor or begin another. [OBJ-79]"""
    print(printable(line), file=sys.stdout if file is None else file, flush=flush)


def number_of_objects(number: int) -> str:
    return f"{number} object{'' if number == 1 else 's'}"
