"""Which commands there are, and the parser of all of them. Statement CMD-1."""

import argparse
import difflib
import sys
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from durus import __version__, persistent
from durus.cli import check, completion, console, convert, info, pack, rename, serve
from durus.text import printable


class Command(NamedTuple):
    """One command: what it is for, its options, and the function that does it."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "serve": Command("serve a file to clients, or stop a server", serve.add_arguments, serve.run),
    "shell": Command("open a Python shell on a file, or on a server", console.add_arguments, console.run),
    "pack": Command("remove what the root does not reach, from a file or on a server", pack.add_arguments, pack.run),
    "check": Command("verify all transactions, checksums, records and references", check.add_arguments, check.run),
    "info": Command("show what a file holds", info.add_arguments, info.run),
    "rename": Command("give a class or a module another path in a file", rename.add_arguments, rename.run),
    "convert": Command("copy a file to a new file, or to another kind of storage", convert.add_arguments, convert.run),
    "completion": Command(
        "print a script that completes commands and options in a shell",
        completion.add_arguments,
        lambda options: completion.run(options, make_parser()),
    ),
}

ALIASES = {"-s": "serve", "-c": "shell", "-p": "pack"}
"""The names that Durus 4.3 has."""

_HELP_WIDTH = 100


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the usage and one line, and end with 2. [CMD-2] [OBJ-79]"""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `durus`, with one subparser for each command."""
    parser = _Parser(
        prog="durus",
        usage="durus COMMAND [options]",
        description="A persistent object system for Python.",
        epilog="`durus COMMAND --help` shows the options of a command.",
        formatter_class=_formatter,
    )
    version = f"durus {__version__} (base classes in {persistent.implementation})"
    parser.add_argument("--version", action="version", version=version, help="show the version and exit")
    subparsers = parser.add_subparsers(prog="durus", title="commands", metavar="COMMAND", parser_class=_Parser)
    short = {name: alias for alias, name in ALIASES.items()}
    for name, command in COMMANDS.items():
        also = f" (durus {short[name]})" if name in short else ""
        description = command.summary[0].upper() + command.summary[1:] + "."
        subparser = subparsers.add_parser(name, help=command.summary + also, description=description)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, parser=subparser)
    return parser


def nearest(name: str) -> str | None:
    """Return the command whose name is like this one, None if none is. [CMD-3]"""
    near = difflib.get_close_matches(name.lower(), COMMANDS, 1)
    return near[0] if near else None


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, width=_HELP_WIDTH, max_help_position=20)
