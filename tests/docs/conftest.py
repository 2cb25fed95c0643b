"""The generator of the documentation, which is no part of the package."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

pytest.importorskip("lightning")  # the callbacks have cards, too
