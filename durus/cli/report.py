"""Prints the findings of `check` and `info`: lines as they come, or one JSON object. Statements CMD-10 to CMD-13."""

import argparse
import json

from durus import __version__
from durus.cli.output import tell
from durus.text import without_password

_SHARED_KEYS = ("file", "format", "sealed", "transactions", "objects")


class Report:
    """Prints findings as text, or collects them for the JSON, in which `keys` are null at first."""

    def __init__(self, options: argparse.Namespace, keys: tuple[str, ...]) -> None:
        self.is_json: bool = options.json
        self._values: dict[str, object] = {"durus": __version__, **dict.fromkeys(_SHARED_KEYS + keys)}
        self.note(None, file=without_password(options.file))

    def note(self, line: str | None, **values: object) -> None:
        """Print the line, or add the values to the JSON."""
        if self.is_json:
            self._values.update(values)
        elif line is not None:
            tell(line)

    def end(self) -> None:
        """Print the JSON if it was requested."""
        if self.is_json:
            tell(json.dumps(self._values))


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
