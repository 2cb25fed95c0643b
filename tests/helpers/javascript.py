"""Runs JavaScript under node."""

import json
import shutil
import subprocess

import pytest

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="JavaScript is run by node, which is not installed")


def run(text, *arguments):
    """The value of a function, given as text, of arguments; NaN and infinities in its result arrive as such."""
    text = f"""
        const whole = (key, value) => typeof value === "number" && !Number.isFinite(value) ? `${{value}}` : value;
        console.log(JSON.stringify(({text})(...{json.dumps(arguments)}), whole));
    """
    done = subprocess.run([NODE, "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return _whole(json.loads(done.stdout))


def _whole(value):
    if isinstance(value, list):
        return [*map(_whole, value)]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
