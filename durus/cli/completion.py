"""`durus completion`: scripts with which a shell completes commands, options and files. Statement CMD-40."""

import argparse
from collections.abc import Iterator

from durus.cli.commands import make_parser
from durus.error import DurusError

_SHELLS = ("bash", "zsh", "fish")
_FILES = ("file", "old", "new", "logfile", "startup", "address")
"""The options and arguments that name a file; `rename` has two of the same names that do not."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help="the shell: bash, zsh or fish")
    parser.epilog = "For bash: durus completion bash > ~/.local/share/bash-completion/completions/durus"


def run(options: argparse.Namespace) -> int:
    """Print the script for the parser of all commands."""
    try:
        import shtab
    except ImportError as error:
        raise DurusError("completion needs shtab, which is not installed: pip install 'durus[cli]'") from error
    parser = make_parser()
    for action in _file_arguments(parser):
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # how shtab is told of it
    print(shtab.complete(parser, options.shell))
    return 0


def _file_arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of all commands that name a file."""
    for action in parser._actions:  # argparse has no public way to go through them
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _file_arguments(subparser)
        elif action.dest in _FILES and not (parser.prog.endswith("rename") and action.dest != "file"):
            yield action
