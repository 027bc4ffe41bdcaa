"""`durus completion`: scripts with which a shell completes commands, options and files. Statement CMD-40."""

import argparse
from collections.abc import Iterator

from durus.cli.commands import make_parser
from durus.error import DurusError

_SHELLS = ("bash", "zsh", "fish")
_FILES = ("file", "old", "new", "target", "lines", "logfile", "startup", "address")
_NOTHING = {"zsh": "()"}  # with no action at all, zsh completes no option in place of such an argument either
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
    for action, names_a_file in _arguments(parser):
        if names_a_file:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # how shtab is told of it
        elif not action.option_strings and action.choices is None:
            action.complete = _NOTHING  # type: ignore[attr-defined]  # likewise
    print(shtab.complete(parser, options.shell))
    return 0


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.Action, bool]]:
    """Yield the arguments of all commands, and whether they name a file."""
    for action in parser._actions:  # argparse has no public way to go through them
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _arguments(subparser)
        else:
            is_class = parser.prog.endswith("rename") and action.dest != "file"
            yield action, action.dest in _FILES and not is_class
