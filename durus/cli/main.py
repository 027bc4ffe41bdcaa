"""Finding out which command is meant, and running it."""

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from durus import __version__, persistent
from durus.cli import check, console, convert, info, pack, rename, serve
from durus.cli.output import tell
from durus.error import DurusError, DurusWarning
from durus.text import printable_lines

Run = Callable[[argparse.Namespace], int]

_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Run]] = {
    "-s": ("serve a file to clients, or a temporary one; or stop a server", serve.add_arguments, serve.run),
    "-c": ("open a Python console on what a server holds, or on a file", console.add_arguments, console.run),
    "-p": ("pack what a server holds, or a file: remove what the root does not reach", pack.add_arguments, pack.run),
    "check": ("verify every transaction, seal, record and reference of a file", check.add_arguments, check.run),
    "info": ("tell what a file holds", info.add_arguments, info.run),
    "rename": ("give classes or modules another path in a file", rename.add_arguments, rename.run),
    "convert": ("copy what a file holds to a new one, with new oids", convert.add_arguments, convert.run),
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
        tell(f"durus {__version__} (base classes in {persistent.implementation})")
        return 0
    if not given or given[0] not in _COMMANDS:
        print(_help(), file=sys.stderr)
        return 2
    name = given[0]
    description, add_arguments, run = _COMMANDS[name]
    parser = argparse.ArgumentParser(prog=f"durus {name}", description=description[0].upper() + description[1:] + ".")
    add_arguments(parser)
    try:
        options = parser.parse_args(given[1:])
    except SystemExit as ended:  # argparse has told what is wrong, or has helped
        return 0 if ended.code in (0, None) else 2
    try:
        with _warnings_in_one_line():
            status = run(options)
        sys.stdout.flush()
        return status
    except DurusError as error:
        print(f"durus: {printable_lines(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who reads the output has enough of it, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _help() -> str:
    lines = [f"  durus {name:<7} {description}" for name, (description, _, _) in _COMMANDS.items()]
    return _USAGE + "\n".join(lines) + "\n\n`durus COMMAND --help` tells the options of a command."


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show each DurusWarning as one line on stderr, and other warnings as ever."""
    with warnings.catch_warnings():
        show_other = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, DurusWarning):
                tell(f"durus: warning: {message}", file=sys.stderr)
            else:
                show_other(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", DurusWarning)
        warnings.showwarning = show
        yield
