"""The site, as ``make site`` builds it: Sphinx over the repository itself, so that every page has one source."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

import nbformat
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import ptlib

ROOT = Path(__file__).parents[2]

project = "ptlib"
version = release = ptlib.__version__
copyright = "2026, The ptlib authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "notebooks/site/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "ptlib/zoo/README.md", "notebooks/glossary.md",
                    "notebooks/*.ipynb", "notebooks/**/*.ipynb", "notebooks/site/*.md"]
exclude_patterns = ["**/.ipynb_checkpoints"]

nb_execution_mode = "off"  # pages show what make notebooks ran
nb_merge_streams = True
nb_render_markdown_format = "myst"  # closing texts link to other pages
highlight_language = "none"  # of blocks that name no language, such as what a program prints
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

html_theme = "furo"
html_title = "ptlib"
html_math_renderer = "mathml"
html_css_files = ["site.css"]
html_static_path = ["static"]
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True


def mathml(writer: HTML5Translator, node: nodes.math) -> None:
    """Show TeX as MathML, which browsers draw without a script or a network."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    writer.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def tables_stay_as_they_are(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Show a table in a docstring as it stands there: it is Markdown, which autodoc does not read."""
    plain = "\n".join(lines)
    text = re.sub(r"(?m)(?:^[ ]*\|.*\n?)+", lambda table: "::\n\n" + re.sub(r"(?m)^", "    ", table[0]), plain)
    lines[:] = text.split("\n")


def dicts_are_code(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Show ``{key: value}`` in a docstring as code: a colon in plain text would end the type of what is returned."""
    lines[:] = [re.sub(r"(?<!`)\{[^{}`]*: [^{}`]*\}", r"``\g<0>``", line) for line in lines]


def figures_in_words(app: Sphinx, doctree: nodes.document) -> None:
    """Give figures the alternative text that their notebook holds, or else the title of their section.

    MyST-NB names a figure's file by the SHA-256 of its bytes and drops the text.
    """
    for image in doctree.findall(nodes.image):
        if "alt" not in image:
            section = image.parent
            while section is not None and not isinstance(section, nodes.section):
                section = section.parent
            title = section.next_node(nodes.title).astext() if section is not None else "this page"
            image["alt"] = alternative_texts().get(Path(image["uri"]).stem, f"Figure of: {title}")


@cache
def alternative_texts() -> dict[str, str]:
    """{SHA-256 of a figure: its text} of all notebooks."""
    texts = {}
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", ()):
                about = output.get("metadata", {}).get("image/png", {})
                if "alt" in about:
                    content = base64.b64decode(output["data"]["image/png"])
                    texts[hashlib.sha256(content).hexdigest()] = about["alt"]
    return texts


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", figures_in_words)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("autodoc-process-docstring", tables_stay_as_they_are, priority=400)
    app.connect("autodoc-process-docstring", dicts_are_code, priority=450)  # before Napoleon, which comes at 500
