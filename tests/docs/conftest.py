"""The generator of the documentation, which is no part of the package."""

import importlib.util
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "docs"))

# The callbacks have cards, too.
collect_ignore = [] if importlib.util.find_spec("lightning") else ["test_pages.py"]
