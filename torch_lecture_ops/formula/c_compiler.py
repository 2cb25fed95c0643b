"""Turn C text into a loaded library, once a machine: compiled by the system's compiler, kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from .engine import EngineUnavailable

# No -ffast-math: NaN, infinities and signed zeros stay. Without errno and traps loops vectorize, where there are wide
# vectors in wide ones: exp takes half the time. Without contraction (a * b + c in one rounding) every compiler and
# CPU gives the bits that torch's separate operations give.
FLAGS = (
    *("-std=gnu11", "-O3", "-mprefer-vector-width=512", "-fopenmp", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-w"),
)
# Where torch is told to use less of the CPU than is there, by ATEN_CPU_CAPABILITY, kernels do so too.
CAPABILITIES = {"default": "x86-64-v2", "avx2": "x86-64-v3"}
TIMEOUT_SECONDS = 120
OTHER_FOLDER = "set XDG_CACHE_HOME to a folder of your own"


def load(source: str) -> ctypes.CDLL:
    """The library compiled from this C text, from the cache if it is there and whole.

    The cache is $XDG_CACHE_HOME/torch_lecture_ops, else ~/.cache/torch_lecture_ops: one file for each text, compiler,
    set of flags and CPU. A file ends with the digest of its contents; a damaged one is built again. Files come into
    being by renaming, so any number of processes may start at once.

    Raises:
        EngineUnavailable: no Linux on x86-64, no compiler, a compiler that fails, a cache folder that cannot be
            written or that others can write to.
    """
    compiler, flags = _compiler(), (*FLAGS, _march())
    folder = _cache_folder()
    key = "\0".join([source, *compiler, _identity(compiler), *flags, _cpu()])
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.so"
    try:
        if not _is_whole(path):
            _build(source, (*compiler, *flags), path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineUnavailable(
            f"the cache folder {folder} cannot be used: {error}; chmod 700 {folder}, or {OTHER_FOLDER}"
        ) from error


def _build(source: str, compiler: Sequence[str], path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as scratch:
        text, library = Path(scratch, "kernel.c"), Path(scratch, "kernel.so")
        text.write_text(source)
        command = [*compiler, "-o", str(library), str(text), "-lm"]
        try:
            status, errors = _run(command)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineUnavailable(f"the C compiler {compiler[0]!r} cannot be run: {error}") from error
        if status != 0 or not library.exists():
            lines = errors.strip().splitlines() or ["no message"]
            raise EngineUnavailable(f"the C compiler {compiler[0]!r} failed (exit {status}): {lines[0]}")
        with library.open("ab") as file:  # the loader ignores what follows the sections
            file.write(hashlib.sha256(library.read_bytes()).digest())
        library.replace(path)


def _run(command: list[str]) -> tuple[int, str]:
    """Its exit status and what it said of errors. One that takes too long is killed with all processes it started.

    They are a group of their own: a compiler is a driver of others, which would go on, and hold its outputs open.
    """
    streams: Any = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with subprocess.Popen(command, **streams, text=True, errors="replace", start_new_session=True) as process:
        try:
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        except BaseException:  # an interrupt as well, which goes to the group of this process alone
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, errors


def _is_whole(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


@cache
def _compiler() -> tuple[str, ...]:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise EngineUnavailable(f"compiled kernels need Linux on x86-64, this is {sys.platform} {platform.machine()}")
    try:
        command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    except ValueError as error:
        raise EngineUnavailable(f"CC={os.environ['CC']!r} is no command: {error}") from None
    program = shutil.which(command[0])
    if program is None:
        raise EngineUnavailable(f"no C compiler: {command[0]!r} not found; install one or set CC")
    return (program, *command[1:])


def _identity(compiler: tuple[str, ...]) -> str:
    """Changes when the compiler does: asking it for its version would cost a process at every start."""
    program = Path(compiler[0]).resolve()
    status = program.stat()
    return f"{program} {status.st_size} {status.st_mtime_ns}"


def _march() -> str:
    return "-march=" + CAPABILITIES.get(os.environ.get("ATEN_CPU_CAPABILITY", ""), "native")


@cache
def _cpu() -> str:
    """Model and features of the CPU, since -march=native compiles for them (a home may be shared by many machines)."""
    with open("/proc/cpuinfo") as file:
        lines = [line for line in iter(file.readline, "\n") if line.startswith(("model name", "flags"))]
    return "".join(lines)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "torch_lecture_ops"
    except RuntimeError as error:  # no home
        raise EngineUnavailable(f"no cache folder for compiled kernels: {error}; {OTHER_FOLDER}") from error
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise EngineUnavailable(
            f"no cache folder for compiled kernels: {error}{_other_owner(folder)}; {OTHER_FOLDER}"
        ) from error
    if status.st_uid != os.getuid():
        raise EngineUnavailable(
            f"the cache folder {folder} can be written by others, who could plant code in it{_other_owner(folder)}; "
            f"{OTHER_FOLDER}, or make it yours (chown -R {os.getuid()} {folder})"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineUnavailable(
            f"the cache folder {folder} can be written by others, who could plant code in it: its permissions are "
            f"{stat.filemode(status.st_mode)}; make it yours alone (chmod 700 {folder}) or {OTHER_FOLDER}"
        )
    return folder


def _other_owner(folder: Path) -> str:
    """Whose the folder is, or what there is on the way to it, if it is not this user's: as under sudo without -H."""
    for path in (folder, *folder.parents):
        with suppress(OSError):  # it is not there, or not to be seen
            owner, user = path.stat().st_uid, os.getuid()
            return f": {path} belongs to {_user(owner)}, and this is {_user(user)}" if owner != user else ""
    return ""


def _user(number: int) -> str:
    import pwd  # which Windows does not have

    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:  # as in a container
        return f"user {number}"
