"""Sphinx configuration: pages in Markdown, the reference from the docstrings. Builds without a network."""

from typing import Any

from tmrl import __version__

project = "tmrl-memory"
author = copyright = "The tmrl-memory developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "py:obj"
python_maximum_signature_line_length = 88
add_module_names = False

myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"tmrl-memory {__version__}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sphinx = False


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", rejoin, priority=900)


def rejoin(*event: Any) -> None:
    """Joins an attribute's docstring again, of which napoleon takes what precedes a colon for a type."""
    lines: list[str] = event[-1]
    for place, line in enumerate(lines):
        if line.startswith(":type: "):
            lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"
            del lines[place]
            return
