"""Build the documentation: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import celery_realtime  # noqa: E402

project = "celery_realtime"
author = "The celery_realtime contributors"
project_copyright = author
release = version = celery_realtime.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

highlight_language = "text"

html_theme = "furo"
html_title = f"celery_realtime {release}"
html_copy_source = False
html_extra_path = ["asyncapi.yaml"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
