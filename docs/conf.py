"""How Sphinx builds the documentation: `tox -e docs`, or `sphinx-build -c docs . build/docs`.

The source folder is the project's root, so that links between docs/, spec/ and README.md are the same on every site.
"""

import os
import sys
from pathlib import Path

os.environ["DURUS_PURE_PYTHON"] = "1"  # the Python version has the signatures
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import durus

project = "Durus"
author = copyright = "the Durus authors"
version = release = durus.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "api_text",
    "sphinx.ext.napoleon",  # after api_text, which it completes
    "command_options",
    "diagrams",
    "file_names",
    "front_pages",
    "statements",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "spec/*.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bench/*.md",
    "conformance/*.md",
    "examples/**.md",
]

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4

napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"Durus {version}"
html_static_path = ["_static"]
html_css_files = ["durus.css"]
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
