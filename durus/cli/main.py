"""Finds the command, and runs it. Statements CMD-1 to CMD-3."""

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

from durus.cli.commands import ALIASES, COMMANDS, make_parser, nearest
from durus.cli.options import UsageError
from durus.cli.output import tell
from durus.error import ArgumentError, DurusError, DurusWarning, LockedError
from durus.text import command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments`, sys.argv if None; return the exit status. [CMD-2]

    0 is success, 1 an error, in one line on stderr, 2 a usage error, 130 an interrupt.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed_streams()
    try:
        options = _parse(given)
    except SystemExit as ended:  # argparse has printed an error, or the help
        return 0 if ended.code in (0, None) else 2
    return 2 if options is None else _run(options, given)


def _open_closed_streams() -> None:
    """Open the streams that this process was started without, as by `>&-`. [CMD-2]

    Otherwise a database would get the descriptor of one, and what other libraries print there.
    """
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _parse(given: list[str]) -> argparse.Namespace | None:
    """Return the options of the command, None if there is no command; SystemExit as raised by argparse."""
    name = ALIASES.get(given[0], given[0]) if given else ""
    parser = make_parser(name)
    if not given:
        parser.print_help(sys.stderr)
        return None
    if name not in COMMANDS and name not in ("-h", "--help", "--version"):
        near = "--help" if name == "help" else nearest(name)
        hint = f"did you mean {command_line(near, given[1:])}?" if near else "`durus --help` lists all commands"
        parser.error(f"there is no command {name!r}; {hint}")
    options, unknown = parser.parse_known_args([name, *given[1:]])
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}; `durus {name} --help` lists all options")
    return options


def _run(options: argparse.Namespace, given: list[str]) -> int:
    try:
        with _warnings_in_one_line():
            status: int = options.run(options)
        sys.stdout.flush()
        return status
    except (UsageError, ArgumentError) as error:  # a function has refused the value of an option
        with contextlib.suppress(SystemExit):
            options.parser.error(str(error))
        return 2
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        _drop_output()
        return 1
    except (DurusError, OSError) as error:
        if isinstance(error, LockedError):
            error.advice = _advice(options, given) or error.advice
        tell(f"durus: {_text(error)}", file=sys.stderr)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            return 1
        _drop_output()
        return 1
    except KeyboardInterrupt:
        return 130


def _advice(options: argparse.Namespace, given: list[str]) -> str | None:
    """Return what helps if the file is in use: a text of the command, and its call with an option. [CMD-9]"""
    advice: str | None = options.if_in_use
    option: str | None = options.option_if_in_use
    return advice if option is None else f"{advice}: {command_line(given[0], [*given[1:], option])}"


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, DurusError) and error.strerror:
        what = error.filename or ("the current folder" if isinstance(error, FileNotFoundError) else "the output")
        return f"{what}: {error.strerror}"
    return str(error)


def _drop_output() -> None:
    """Discard what is still to be written to stdout, which accepts no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show each DurusWarning as one line on stderr, and other warnings as usual."""
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
