"""The directive `command-options`: the usage and the options of a command of `durus`, from its parser."""

import argparse

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from durus.cli.commands import make_parser


class CommandOptions(SphinxDirective):
    """Lists what `durus NAME --help` shows."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        parser = parser_of(self.arguments[0])
        usage = parser.format_usage().removeprefix("usage: ").rstrip()
        listed = nodes.definition_list()
        for action in parser._actions:
            if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
                continue
            term = nodes.term("", "", nodes.literal("", _spelling(action)))
            text = (action.help or "") % {**vars(action), "prog": parser.prog}
            item = nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", text)))
            listed += item
        shown = nodes.literal_block(usage, usage, language="text")
        return [nodes.paragraph("", parser.description or ""), shown, listed]


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of one command."""
    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            parser: argparse.ArgumentParser = action.choices[name]
            return parser
    raise LookupError(f"durus has no command {name!r}")


def _spelling(action: argparse.Action) -> str:
    value = action.metavar or (None if action.nargs == 0 else action.dest.upper())
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return ", ".join(f"{option} {value}" if value else option for option in action.option_strings)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("command-options", CommandOptions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
