"""How Sphinx makes the site: ``sphinx-build -W -n docs FOLDER``. It needs no network."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "iowq"
author = "the iowq contributors"
release = importlib.import_module("iowq").__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"iowq {release}"
html_static_path = ["_static"]
html_favicon = "_static/mark.svg"
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
pygments_style = "default"
pygments_dark_style = "github-dark"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 76
#: What isn't this package's has its documents elsewhere, and to fetch them takes a network.
nitpick_ignore_regex = [
    ("py:.*", r"(?!iowq\.).*"),
    ("py:class", r"iowq\..*\.[A-Z]"),  # type variables
    ("py:class", r"iowq\._.*"),  # private ones, that annotations name
]

_PACKAGE = Path(__file__).parents[1] / "src/iowq"
#: The modules whose names are public.
MODULES = ["iowq", *(f"iowq.{path.stem}" for path in sorted(_PACKAGE.glob("[a-z]*.py")))]


def _public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element
) -> Element | None:
    """Finds where a type is documented that an annotation names by its private module."""
    package, _, name = node.get("reftarget", "").rpartition(".")
    if not package.startswith("iowq."):
        return None
    domain: Any = env.domains["py"]
    for module in (node.get("py:module"), *MODULES):
        if f"{module}.{name}" in domain.objects:
            place = (app.builder, "obj", f"{module}.{name}", node, contnode)
            found: Element | None = domain.resolve_xref(env, node["refdoc"], *place)
            return found
    return None


def _readable(*event: Any) -> tuple[str | None, str | None]:
    """Says of a ``ParamSpec``'s parts what the sources say, which Sphinx can't parse else."""
    *_, signature, returns = event
    if signature:
        signature = signature.replace("*args: ~typing.~P", "*args: P.args")
        signature = signature.replace("*kwargs: ~typing.~P", "*kwargs: P.kwargs")
    return signature, returns


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", _public_name)
    app.connect("autodoc-process-signature", _readable)
