"""The documentation as a site, written by Sphinx: `make docs`."""

from __future__ import annotations

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

import apot_export

NAVIGATION = {
    "Start": ["../README", "install", "tutorial", "faq", "glossary"],
    "How to": [
        *(
            "checkpoints",
            "quantization",
            "datasets",
            "exports",
            "inspect",
            "../examples/paper/README",
            "targets",
            "tuning",
            "deploy/index",
        ),
        *("deploy/*", "native-kernels", "gpu"),
    ],
    "Explanation": [
        *("verification", "identify", "integer-semantics", "fraction-bits", "performance"),
        "architecture",
    ],
    "Reference": [
        *("cli", "api", "supported", "clients", "../FORMAT", "../conformance/README"),
        *("../SECURITY", "../CHANGELOG", "../CONTRIBUTING"),
    ],
}
"""The pages of the sidebar, which GitHub does without; see `with_navigation`."""

project = "apot-export"
release = version = apot_export.__version__
html_title = f"apot-export {version}"
html_show_copyright = html_show_sphinx = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    *("README.md", "FORMAT.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"),
    *("conformance/README.md", "examples/paper/README.md", "docs/**.md", "docs/**.rst"),
]
exclude_patterns = [".*", "apot_export", "benchmarks", "build", "cli", "examples/[!p]*", "tests"]
html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_extra_path = ["_site"]  # what forwards from the site's first page to docs/
html_copy_source = False
myst_heading_anchors = 4
default_role = "code"  # docstrings write `names`
autodoc_typehints = "description"
autodoc_member_order = "bysource"
pygments_style, pygments_dark_style = "default", "github-dark"


def with_navigation(_app: Sphinx, page: str, text: list[str]) -> None:
    """Give the first page the sidebar's entries, which would be noise in the Markdown."""
    if page == root_doc:
        for caption, pages in NAVIGATION.items():
            entries = "\n".join(pages)
            text[0] += (
                f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{entries}\n```\n"
            )


def setup(app: Sphinx) -> None:
    """Register what this file adds to Sphinx, which calls it."""
    app.add_lexer("vector", TextLexer)  # blocks of FORMAT.md that tests read
    app.connect("source-read", with_navigation)
