"""What the tests of benchmarks share."""

import signal

import pytest


@pytest.fixture
def ctrl_c():
    """The signal is heard, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
