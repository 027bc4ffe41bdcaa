"""The files at the root of the site: index.html, which leads to the first page, and llms.txt, a list of all pages.

A link to a folder of the project, which the site does not have, becomes plain text.
"""

from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.typing import ExtensionMetadata

_REDIRECT = """<!DOCTYPE html>
<meta charset="utf-8"><title>Durus</title>
<meta http-equiv="refresh" content="0; url={page}"><a href="{page}">Durus</a>
"""


def write(app: Sphinx, error: Exception | None) -> None:
    """Write both when the build is done."""
    if error is not None or app.builder.format != "html":
        return
    first = app.builder.get_target_uri(app.config.root_doc)
    Path(app.outdir, "index.html").write_text(_REDIRECT.format(page=first), encoding="utf-8")
    Path(app.outdir, "llms.txt").write_text(page_list(app), encoding="utf-8")


def page_list(app: Sphinx) -> str:
    """Return every page with its title and first sentence, in the order of the contents."""
    lines = [f"# Durus {app.config.release}", "", f"> {_summary(app, app.config.root_doc)}", ""]
    lines += ["The Markdown of a page is at `_sources/PAGE.md.txt`.", "", "## Pages", ""]
    for docname in _in_order(app, app.config.root_doc):
        title = app.env.titles[docname].astext()
        summary = _summary(app, docname)
        lines.append(f"- [{title}]({app.builder.get_target_uri(docname)})" + (f": {summary}" if summary else ""))
    return "\n".join(lines) + "\n"


def _in_order(app: Sphinx, docname: str) -> list[str]:
    found = [docname]
    for below in app.env.toctree_includes.get(docname, []):
        found += _in_order(app, below)
    return found


def _summary(app: Sphinx, docname: str) -> str:
    for paragraph in app.env.get_doctree(docname).findall(nodes.paragraph):
        if not isinstance(paragraph.parent, nodes.section):
            continue
        return " ".join(paragraph.astext().split()).split(". ")[0].rstrip(".:") + "."
    return ""


class FolderLinks(SphinxTransform):
    """Makes plain text of links that lead to a folder."""

    default_priority = 700

    def apply(self) -> None:
        folder = Path(self.env.doc2path(self.env.docname)).parent
        for link in list(self.document.findall(pending_xref)):
            if link.get("reftype") == "myst" and (folder / link["reftarget"]).is_dir():
                link.replace_self(link.children)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("build-finished", write)
    app.add_transform(FolderLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
