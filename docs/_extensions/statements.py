"""An anchor for each numbered statement of spec/, and a link wherever its id is in brackets.

`**[TXN-5]**` at its place in spec/ becomes the anchor `#TXN-5`. `[TXN-5]` in a document or a docstring becomes a link
to it. A link of this form to a statement that does not exist is a warning.
"""

import re

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.std import StandardDomain
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.typing import ExtensionMetadata

EXAMPLES = ("dfs20", "exchange", "large", "pack", "record", "shelf", "steps", "write")
"""The kinds of examples in spec/, which are shown as they are."""
_ID = r"[A-Z]+[0-9]?-[1-9][0-9]*"
_NAMED = re.compile(rf"\[({_ID})\]")
_LINK_TEXT = re.compile(rf"({_ID})( .*)?")


class Statements(SphinxTransform):
    """Makes anchors in spec/, and links everywhere."""

    default_priority = 700

    def apply(self) -> None:
        if self.env.docname.startswith("spec/"):
            self._make_anchors()
        self._make_links()

    def _make_anchors(self) -> None:
        standard: StandardDomain = self.env.domains.standard_domain
        for strong in list(self.document.findall(nodes.strong)):
            found = _NAMED.fullmatch(strong.astext())
            if not found:
                continue
            name = found[1]
            anchor = nodes.inline(ids=[name])
            link = nodes.reference("", "", refid=name, internal=True, classes=["statement"])
            strong.replace_self(anchor)
            link += strong
            anchor += link
            standard.labels[name.lower()] = (self.env.docname, name, name)
            standard.anonlabels[name.lower()] = (self.env.docname, name)

    def _make_links(self) -> None:
        for text in list(self.document.findall(nodes.Text)):
            parent = text.parent
            if parent is None or not _NAMED.search(text) or _is_verbatim(text):
                continue
            parent.replace(text, _linked(str(text)))


def _is_verbatim(text: nodes.Text) -> bool:
    node: nodes.Node | None = text.parent
    while node is not None:
        if isinstance(node, nodes.literal | nodes.FixedTextElement | nodes.reference | pending_xref | nodes.title):
            return True
        node = node.parent
    return False


def _linked(text: str) -> list[nodes.Node]:
    parts: list[nodes.Node] = []
    end = 0
    for found in _NAMED.finditer(text):
        parts.append(nodes.Text(text[end : found.start()]))
        link = pending_xref("", refdomain="std", reftype="ref", reftarget=found[1].lower(), refexplicit=True)
        link["refwarn"] = True
        link += nodes.inline("", found[0])
        parts.append(link)
        end = found.end()
    return [*parts, nodes.Text(text[end:])]


def point_at_statement(app: Sphinx, document: nodes.document, docname: str) -> None:
    """Have a link to a document of spec/, whose text begins with the id of a statement, lead to that statement."""
    for link in document.findall(nodes.reference):
        uri = link.get("refuri", "")
        found = _LINK_TEXT.fullmatch(link.astext())
        if found and uri.endswith(".html") and found[1].lower() in _labels(app.env):
            link["refuri"] = f"{uri}#{found[1]}"


def _labels(env: BuildEnvironment) -> dict[str, tuple[str, str, str]]:
    return env.domains.standard_domain.labels


def setup(app: Sphinx) -> ExtensionMetadata:
    for kind in EXAMPLES:
        app.add_lexer(kind, TextLexer)
    app.add_transform(Statements)
    app.connect("doctree-resolved", point_at_statement)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
