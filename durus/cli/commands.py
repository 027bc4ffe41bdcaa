"""The commands, and the parser of all of them. Statement CMD-1."""

import argparse
import difflib
import importlib
import sys
from typing import NamedTuple, NoReturn

from durus import __version__, persistent
from durus.text import printable


class Command(NamedTuple):
    """One command: its purpose, and the module with its add_arguments() and run().

    A module is imported when its command is used, so that no command waits for the imports of the others.
    """

    summary: str
    module: str

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this command, and its function, to the parser."""
        module = importlib.import_module(f"durus.cli.{self.module}")
        module.add_arguments(parser)
        parser.set_defaults(run=module.run)


COMMANDS = {
    "serve": Command("serve a file to clients, or stop a server", "serve"),
    "status": Command("show what a server does", "status"),
    "shell": Command("open a Python shell on a file, or on a server", "console"),
    "pack": Command("remove what the root does not reach, from a file or on a server", "pack"),
    "check": Command("verify all transactions, checksums, records and references", "check"),
    "info": Command("show what a file holds", "info"),
    "show": Command("show one object of a file, and what it refers to", "show"),
    "refs": Command("list the objects of a file that refer to one", "refs"),
    "browse": Command("show what a file or a server holds in web pages", "browse"),
    "log": Command("show the commits of a file, or the states that an object had", "log"),
    "backup": Command("back up a file, which may be in use, or verify a backup", "backup"),
    "restore": Command("restore a file from a backup, as it is now or was at a time", "restore"),
    "follow": Command("keep a copy of a file, a backup or a server up to date", "follow"),
    "salvage": Command("copy the sound part of a damaged file to a new file", "salvage"),
    "rename": Command("change the path of a class or a module in a file", "rename"),
    "init": Command("make the tables of a database in PostgreSQL, or show their version", "init"),
    "convert": Command("copy a file to a new file, or to another kind of storage", "convert"),
    "export": Command("write what a file holds as JSON lines, SQLite or CSV", "export"),
    "import": Command("make a file from exported JSON lines", "import_lines"),
    "completion": Command("print a script that completes commands and options in a shell", "completion"),
}

ALIASES = {"-s": "serve", "-c": "shell", "-p": "pack"}
"""The names of Durus 4.3."""

_HELP_WIDTH = 100


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the usage and one line, and end with 2. [CMD-2] [OBJ-79]"""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")


def make_parser(used: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of `durus`, with one subparser for each command.

    If the command that is `used` is known, the other subparsers have no options.
    """
    parser = _Parser(
        prog="durus",
        usage="durus COMMAND [options]",
        description="A persistent object system for Python.",
        epilog="`durus COMMAND --help` shows the options of a command.",
        formatter_class=_formatter,
        allow_abbrev=False,  # so that no later option makes a call ambiguous [CMD-8]
    )
    version = f"durus {__version__} (base classes in {persistent.implementation})"
    parser.add_argument("--version", action="version", version=version, help="show the version and exit")
    subparsers = parser.add_subparsers(prog="durus", title="commands", metavar="COMMAND", parser_class=_Parser)
    short = {name: alias for alias, name in ALIASES.items()}
    for name, command in COMMANDS.items():
        also = f" (durus {short[name]})" if name in short else ""
        description = command.summary[0].upper() + command.summary[1:] + "."
        subparser = subparsers.add_parser(
            name, help=command.summary + also, description=description, allow_abbrev=False
        )
        subparser.set_defaults(parser=subparser, if_in_use=None, option_if_in_use=None)
        if used is None or name == used:
            command.add_to(subparser)
    return parser


def nearest(name: str) -> str | None:
    """Return the command with the most similar name, None if there is none. [CMD-3]"""
    near = difflib.get_close_matches(name.lower(), COMMANDS, 1)
    return near[0] if near else None


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, width=_HELP_WIDTH, max_help_position=20)
