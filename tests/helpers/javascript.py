"""Runs JavaScript under node: one process, which answers a line by a line."""

import atexit
import json
import shutil
import subprocess
from functools import cache

import pytest

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="JavaScript is run by node, which is not installed")

ANSWER = """
const all = (key, value) => typeof value === "number" && !Number.isFinite(value) ? `${value}` : value;
require("readline").createInterface({input: process.stdin}).on("line", line => {
    const {text, given} = JSON.parse(line);
    try {
        console.log(JSON.stringify({value: (0, eval)(`(${text})`)(...given)}, all));
    } catch (error) {
        console.log(JSON.stringify({error: `${error}`}));
    }
});
"""


@cache
def _node():
    node = subprocess.Popen([NODE, "-e", ANSWER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(node.__exit__, None, None, None)  # which closes its input, and so ends it
    return node


def run(text, *given):
    """The value of a function, given as text, of these arguments."""
    node = _node()
    node.stdin.write(json.dumps({"text": text, "given": given}) + "\n")
    node.stdin.flush()
    answer = json.loads(node.stdout.readline())
    assert "error" not in answer, f"{answer['error']} in {text}"
    return _whole(answer["value"])


def _whole(value):
    """With NaN and infinities, which JSON lacks."""
    if isinstance(value, list):
        return [*map(_whole, value)]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
