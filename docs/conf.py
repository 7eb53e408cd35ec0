"""The site: the Markdown of this folder and of the top one as pages, and a reference made from the docstrings."""

import os
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

import gan_regularizers
from gan_regularizers import spider

DOCS = Path(__file__).parent.resolve()
ROOT = DOCS.parent
FORGE = "https://github.com/gan-regularizers/gan-regularizers/tree/main/"
# The pages that files outside this folder are included in.
PAGES = {
    ROOT / "README.md": DOCS / "start.md",
    ROOT / "CHANGELOG.md": DOCS / "changelog.md",
    ROOT / "CONTRIBUTING.md": DOCS / "contributing.md",
}

project = "gan_regularizers"
version = release = gan_regularizers.__version__
copyright = "gan_regularizers contributors"  # noqa: A001  Sphinx's name
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_argparse_cli",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
nitpicky = True
# Other projects' names, whose inventories only the network has; and ours that are for no reader to look up.
nitpick_ignore_regex = [("py:.*", r"torch\..*|numpy\..*|collections\..*|pathlib\..*|.*\._Discriminator|CommandError")]
smartquotes_action = "D"  # dashes alone

autosummary_generate = False
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch.nn.Module's
autodoc_typehints_format = "short"
maximum_signature_line_length = 90
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"gan_regularizers {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_sourcelink = False
html_use_index = False  # the page of all names is shorter


def relink(text: str, source: Path, page: Path) -> str:
    """Make the relative links of a Markdown file those of the page that shows it, and call pages by their titles."""

    def relinked(match: re.Match[str]) -> str:
        link, anchor = match.groups()
        target = (source.parent / link).resolve()
        if target.is_dir():  # which is no page, and nothing to download
            return f"]({FORGE}{target.relative_to(ROOT).as_posix()})"
        if not target.is_file():  # an address, or a mistake, which is reported
            return match[0]
        return f"]({Path(os.path.relpath(PAGES.get(target, target), page.parent)).as_posix()}{anchor})"

    text = re.sub(r"\[(docs/)?[\w/-]+\.md\](?=\()", "[]", text)
    return re.sub(r"\]\(([^()#\s]+)((?:#[^()\s]*)?)\)", relinked, text)


def relink_page(app: Sphinx, docname: str, text: list[str]) -> None:
    page = Path(app.env.doc2path(docname))
    text[0] = relink(text[0], page, page)


def relink_included(_: Sphinx, included: Path, docname: str, text: list[str]) -> None:
    text[0] = relink(text[0], (DOCS / included).resolve(), DOCS / f"{docname}.md")


def link_names(app: Sphinx, page: nodes.document, docname: str) -> None:
    """Link a page's first mention of each public name, such as ``DiffAugment``, to the reference."""
    objects = app.env.domains.python_domain.objects
    public = {
        name: objects[f"{module.__name__}.{name}"] for module in (gan_regularizers, spider) for name in module.__all__
    }
    found = {name: entry for name, entry in public.items() if entry.docname != docname}
    for literal in list(page.findall(nodes.literal)):
        if literal.astext() in found and not isinstance(literal.parent, nodes.title | nodes.reference):
            entry = found.pop(literal.astext())
            link = make_refnode(app.builder, docname, entry.docname, entry.node_id, literal.deepcopy())
            literal.replace_self(link)


def setup(app: Sphinx) -> None:
    app.connect("source-read", relink_page)
    app.connect("include-read", relink_included)
    app.connect("doctree-resolved", link_names)
