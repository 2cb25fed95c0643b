"""Compiled kernels of these tests go to a folder of their own; the tests that need a compiler are skipped without."""

import os
import platform
import shlex
import shutil
import sys

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "needs_compiler: needs Linux on x86-64 and a C compiler")


def missing_compiler():
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"compiled kernels need Linux on x86-64, this is {sys.platform} {platform.machine()}"
    command = (shlex.split(os.environ.get("CC", "")) or ["cc"])[0]
    return "" if shutil.which(command) else f"no C compiler: {command!r} not found"


def pytest_runtest_setup(item):
    if item.get_closest_marker("needs_compiler") and (reason := missing_compiler()):
        pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def empty_cache(tmp_path_factory):
    """A cold start for every run of the tests, which leave nothing in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
