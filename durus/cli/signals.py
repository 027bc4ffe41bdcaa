"""Signals that end a command which runs until it is told to."""

import signal


def end_on_signals() -> None:
    """Have SIGINT and SIGTERM end the process, with status 0."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(*_: object) -> None:
    raise SystemExit(0)
