"""What Sphinx builds the documentation with: `make docs`. Nothing is fetched, when it is built nor when it is read."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import matplotlib  # noqa: E402
from generator.extension import FigureScraper  # noqa: E402

import torch_lecture_ops  # noqa: E402

matplotlib.use("Agg")

project = "torch_lecture_ops"
version = release = torch_lecture_ops.__version__
copyright = "the authors of torch_lecture_ops"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_gallery.gen_gallery", "generator.extension"]
exclude_patterns = ["gallery/**.ipynb", "gallery/**.md5", "gallery/**.py"]

default_role = "literal"
smartquotes = False  # "torch" is an argument
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "torch_lecture_ops"
html_static_path = ["_static"]
html_extra_path = [str(DOCS.parent / "build" / "docs" / "extra")]  # the race page
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False

sphinx_gallery_conf = {
    "examples_dirs": [str(DOCS / "gallery")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"\.py$",
    "image_scrapers": (FigureScraper(),),
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 20,
    "remove_config_comments": True,
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
}
