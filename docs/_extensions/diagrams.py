"""Mermaid diagrams as SVG files, drawn when the documentation is built: no script, no network."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import mmdr
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator


class Diagram(nodes.General, nodes.Element):
    """A diagram: `source` in Mermaid's language, `alt` in words."""


class MermaidDirective(SphinxDirective):
    """The block ```mermaid. Its words are the alternative text."""

    has_content = True
    option_spec: ClassVar[dict[str, Callable[[str], str]]] = {"alt": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        source = "\n".join(self.content)
        return [Diagram(source=source, alt=self.options.get("alt", " ".join(source.split())))]


def visit_html(translator: HTML5Translator, node: Diagram) -> None:
    builder = translator.builder
    name = hashlib.sha256(node["source"].encode()).hexdigest()[:16] + ".svg"
    folder = Path(builder.outdir, builder.imagedir)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = mmdr.render(node["source"]).svg()
    (folder / name).write_text(_with_size(drawn), encoding="utf-8")
    uri = relative_uri(builder.get_target_uri(builder.current_docname), f"{builder.imagedir}/{name}")
    translator.body.append(translator.emptytag(node, "img", "\n", src=uri, alt=node["alt"], CLASS="diagram"))
    raise nodes.SkipNode


def _with_size(svg: str) -> str:
    """Return the drawing with a width, without which a browser shows it as wide as the page."""
    head, rest = svg.split(">", 1)
    width, height = head.split('viewBox="', 1)[1].split('"', 1)[0].split()[2:]
    return head.replace('width="100%"', f'width="{width}" height="{height}"') + ">" + rest


def visit_text(translator: nodes.NodeVisitor, node: Diagram) -> None:
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_node(Diagram, html=(visit_html, None), text=(visit_text, None))
    app.add_directive("mermaid", MermaidDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
