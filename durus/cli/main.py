"""Finding out which command is meant, and running it."""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

from durus import __version__
from durus.cli import check, console, info, pack
from durus.error import DurusError, DurusWarning

Run = Callable[[argparse.Namespace], int]

_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Run]] = {
    "-c": ("open a file in an interactive Python console", console.add_arguments, console.run),
    "-p": ("pack a file: remove what its root does not reach", pack.add_arguments, pack.run),
    "check": ("verify every transaction, seal, record and reference of a file", check.add_arguments, check.run),
    "info": ("tell what a file holds", info.add_arguments, info.run),
}

_USAGE = "usage: durus COMMAND [options]\n\nA persistent object system for Python.\n\ncommands:\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments`, sys.argv if None; return the exit status.

    0 is success, 1 an error that one message on stderr tells, 2 a wrong call, 130 an interrupt.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["-h"], ["--help"]):
        print(_help())
        return 0
    if given[:1] == ["--version"]:
        print(f"durus {__version__}")
        return 0
    if not given or given[0] not in _COMMANDS:
        print(_help(), file=sys.stderr)
        return 2
    name = given[0]
    description, add_arguments, run = _COMMANDS[name]
    parser = argparse.ArgumentParser(prog=f"durus {name}", description=description[0].upper() + description[1:] + ".")
    add_arguments(parser)
    options = parser.parse_args(given[1:])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DurusWarning)
            warnings.showwarning = _show_warning
            return run(options)
    except DurusError as error:
        print(f"durus: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _help() -> str:
    lines = [f"  durus {name:<6} {description}" for name, (description, _, _) in _COMMANDS.items()]
    return _USAGE + "\n".join(lines) + "\n\n`durus COMMAND --help` tells the options of a command."


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"durus: warning: {message}", file=sys.stderr)
