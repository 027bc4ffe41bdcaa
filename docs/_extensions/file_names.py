"""Shows the name of the file that a block of code is saved as: what stands before it as `<!-- file: NAME -->`."""

import re

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

_BLOCK = re.compile(r"^<!-- file: (\S+) -->\n```(\w+)\n", re.MULTILINE)


def show(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make the comments of a page captions of their blocks."""
    source[0] = _BLOCK.sub(r"```{code-block} \2\n:caption: \1\n\n", source[0])


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("source-read", show)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
