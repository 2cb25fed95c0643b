"""The cache of compiled kernels and what runs where there is none: in processes with an environment of their own."""

import json
import os
import pickle
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from torch_lecture_ops.formula import EngineUnavailable, c_compiler
from torch_lecture_ops.optim import SGD, Adam

pytestmark = pytest.mark.processes

# Two optimizers of the default engine, then one that asks for compiled kernels: what ran, what was logged and raised.
PROBE = """
import json, logging, os, pwd, sys, traceback
import torch
from torch_lecture_ops.optim import SGD

class Records(logging.Handler):
    def emit(self, record):
        log.append([record.levelname, record.getMessage()])

torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])  # the first optimizer imports half of torch
log = []
logging.getLogger("torch_lecture_ops").addHandler(Records())

def step(**options):
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.ones(3)
    optimizer = SGD([w], lr=0.5, **options)
    optimizer.step()
    assert w.tolist() == [0.5] * 3, w
    return optimizer.engine

def no_such_user(uid):
    raise KeyError(uid)

def probe():
    if "UNKNOWN_USER" in os.environ:
        pwd.getpwuid = no_such_user
    try:
        answer = {"engines": [step(), step()]}
        try:
            answer["fused"] = step(fused=True)
        except RuntimeError as error:
            answer["fused"] = str(error)
        return {**answer, "log": log}
    except Exception:
        return {"failed": traceback.format_exc()}
"""

# A new Python takes seconds to import torch; a process forked right after the import has compiled nothing either.
SERVER = f"""{PROBE}
for line in sys.stdin:
    if os.fork() == 0:
        os.environ.clear()
        os.environ.update(json.loads(line))
        os.write(1, json.dumps(probe()).encode() + bytes([10]))
        os._exit(0)
    if status := os.wait()[1]:
        os.write(1, json.dumps(dict(failed="the process ended with status %d" % status)).encode() + bytes([10]))
"""


def environment(**changes):
    """This environment with changes; None takes a variable away."""
    plain = {key: value for key, value in os.environ.items() if key not in ("CC", "XDG_CACHE_HOME")}
    plain |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return {key: str(value) for key, value in {**plain, **changes}.items() if value is not None}


def python(script, **changes):
    """Run a script in a new process; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(**changes), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server():
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        yield process
        process.stdin.close()
        process.wait()


@pytest.fixture
def probe(server):
    """Run the probe in an environment; its answer."""

    def run(**changes):
        server.stdin.write(json.dumps(environment(**changes)) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        assert "failed" not in answer, answer["failed"]
        return answer

    return run


def files_of(cache):
    return sorted(Path(cache, "torch_lecture_ops").rglob("*"))


def assert_compiled(answer):
    assert answer == {"engines": ["c", "c"], "fused": "c", "log": []}


def assert_fallback(answer, *texts):
    """foreach ran, the log says so once and why; fused=True is an error that says why and what to use instead."""
    assert answer["engines"] == ["foreach", "foreach"]
    ((level, message),) = answer["log"]
    assert level == "WARNING"
    assert message.startswith("no compiled kernels: ")
    assert "foreach" in message
    assert answer["fused"].startswith("SGD: fused=True cannot be had: ")
    assert "use foreach=True, or fused=None" in answer["fused"]
    for text in texts:
        assert text in message
        assert text in answer["fused"]


# ------------------------------------------------------------------------------------------------------------ the cache


@pytest.mark.needs_compiler
def test_a_warm_start_uses_the_file_of_the_cold_start(probe, tmp_path):
    assert_compiled(probe(XDG_CACHE_HOME=tmp_path))
    (first,) = files_of(tmp_path)
    before = first.stat()
    assert_compiled(probe(XDG_CACHE_HOME=tmp_path))
    (second,) = files_of(tmp_path)
    after = second.stat()
    assert (first, before.st_ino, before.st_mtime_ns) == (second, after.st_ino, after.st_mtime_ns)


@pytest.mark.needs_compiler
def test_a_warm_start_runs_no_compiler(probe, tmp_path):
    calls, compiler = tmp_path / "calls", tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho called >> "{calls}"\nexec cc "$@"\n')
    compiler.chmod(0o700)
    for _ in range(3):
        assert_compiled(probe(CC=compiler, XDG_CACHE_HOME=tmp_path / "cache"))
    assert calls.read_text() == "called\n"


@pytest.mark.needs_compiler
def test_the_folder_is_private_and_holds_whole_files_only(probe, tmp_path):
    assert_compiled(probe(XDG_CACHE_HOME=tmp_path / "not" / "yet" / "there"))
    folder = tmp_path / "not" / "yet" / "there" / "torch_lecture_ops"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (library,) = files_of(folder.parent)
    assert library.suffix == ".so"
    assert not stat.S_IMODE(library.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH)


@pytest.mark.needs_compiler
def test_eight_processes_start_at_the_same_moment_on_an_empty_cache(tmp_path):
    script = f"""{PROBE}
read, write = os.pipe()
children = []
for _ in range(8):
    if (pid := os.fork()) == 0:
        os.close(write)
        os.read(read, 1)  # until the parent closes its end
        answer = probe()
        os._exit(answer != {{"engines": ["c", "c"], "fused": "c", "log": []}})
    children.append(pid)
os.close(read)
os.close(write)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
"""
    assert python(script, XDG_CACHE_HOME=tmp_path).strip() == str([0] * 8)
    (library,) = files_of(tmp_path)
    assert library.suffix == ".so"


def cut_in_half(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def with_one_byte_changed(content):
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


def with_a_byte_lost_at_the_end(content):
    return content[:-1]


def with_a_byte_added(content):
    return content + b"\0"


def of_zeros(content):
    return bytes(len(content))


DAMAGES = [cut_in_half, emptied, with_one_byte_changed, with_a_byte_lost_at_the_end, with_a_byte_added, of_zeros]


@pytest.mark.needs_compiler
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_built_again(probe, tmp_path, damage):
    assert_compiled(probe(XDG_CACHE_HOME=tmp_path))
    (library,) = files_of(tmp_path)
    library.write_bytes(damaged := damage(library.read_bytes()))
    assert_compiled(probe(XDG_CACHE_HOME=tmp_path))
    assert files_of(tmp_path) == [library]
    assert library.read_bytes() != damaged
    whole = library.stat()
    assert_compiled(probe(XDG_CACHE_HOME=tmp_path))
    assert library.stat().st_ino == whole.st_ino


@pytest.mark.needs_compiler
def test_each_compiler_has_its_own_file(probe, tmp_path):
    assert_compiled(probe(XDG_CACHE_HOME=tmp_path))
    assert_compiled(probe(XDG_CACHE_HOME=tmp_path, CC="cc -O1"))
    assert len(files_of(tmp_path)) == 2


@pytest.mark.needs_compiler
@pytest.mark.parametrize("capability, level", [
    (None, "native"), ("avx512", "native"), ("avx2", "x86-64-v3"), ("default", "x86-64-v2")
])  # fmt: skip
def test_kernels_use_as_much_of_the_cpu_as_torch_is_told_to(probe, tmp_path, capability, level):
    calls = tmp_path / "calls"
    compiler = executable(tmp_path, f'#!/bin/sh\necho "$@" >> "{calls}"\nexec cc "$@"\n'.encode())
    for _ in range(2):  # the second time from the cache
        assert_compiled(probe(CC=compiler, XDG_CACHE_HOME=tmp_path / "cache", ATEN_CPU_CAPABILITY=capability))
    (call,) = calls.read_text().splitlines()
    assert [flag for flag in call.split() if flag.startswith("-march")] == [f"-march={level}"]


@pytest.mark.needs_compiler
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(probe, tmp_path, mode):
    folder = tmp_path / "torch_lecture_ops"
    folder.mkdir()
    folder.chmod(mode)
    permissions = stat.filemode(folder.stat().st_mode)
    said = f"permissions are {permissions}", f"chmod 700 {folder}", "set XDG_CACHE_HOME"
    assert_fallback(probe(XDG_CACHE_HOME=tmp_path), str(folder), "can be written by others", *said)
    assert files_of(tmp_path) == []
    folder.chmod(0o700)
    assert_compiled(probe(XDG_CACHE_HOME=tmp_path))


@pytest.mark.needs_compiler
def test_a_folder_that_others_can_read_is_not_refused(probe, tmp_path):
    folder = tmp_path / "torch_lecture_ops"
    folder.mkdir()
    folder.chmod(0o755)
    assert_compiled(probe(XDG_CACHE_HOME=tmp_path))


@pytest.mark.needs_compiler
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(probe, tmp_path):
    folder = tmp_path / "torch_lecture_ops"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    said = f"{folder} belongs to user 12345, and this is user {pwd.getpwuid(0).pw_name}", f"chown -R 0 {folder}"
    assert_fallback(probe(XDG_CACHE_HOME=tmp_path), "can be written by others", "set XDG_CACHE_HOME", *said)


@pytest.mark.parametrize("there", ["the folder", "its parent", "nothing"])
def test_whose_the_folder_is_and_what_to_do(monkeypatch, tmp_path, there):
    """For another user, as whom this process is only taken here."""
    owner = c_compiler._user(os.getuid())
    monkeypatch.setattr(c_compiler.os, "getuid", lambda: 12345)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "torch_lecture_ops"
    if there == "nothing":
        (tmp_path / "cache").touch()  # nobody, not even root, creates folders below a file
        whose = tmp_path / "cache"
    else:
        folder.mkdir(parents=True)
        whose = folder
    if there == "its parent":
        folder.rmdir()
        whose = folder.parent
        monkeypatch.setattr(c_compiler.Path, "mkdir", denied)
    with pytest.raises(c_compiler.EngineUnavailable) as caught:
        c_compiler._cache_folder()
    assert f"{whose} belongs to {owner}, and this is user 12345; set XDG_CACHE_HOME to a folder of your own" in str(
        caught.value
    )


def denied(folder, *args, **options):
    raise PermissionError(13, "Permission denied", str(folder))


@pytest.mark.needs_compiler
def test_a_link_to_a_folder_that_others_can_write_to_is_refused(probe, tmp_path):
    target = tmp_path / "open"
    target.mkdir()
    target.chmod(0o777)
    (tmp_path / "torch_lecture_ops").symlink_to(target)
    assert_fallback(probe(XDG_CACHE_HOME=tmp_path), "can be written by others")


# ---------------------------------------------------------------------------------------------- no place for the cache


@pytest.mark.needs_compiler
def test_the_cache_lies_in_the_home_by_default(probe, tmp_path):
    assert_compiled(probe(HOME=tmp_path))
    assert len(files_of(tmp_path / ".cache")) == 1


@pytest.mark.needs_compiler
def test_a_relative_cache_folder_is_ignored(probe, tmp_path):  # as the XDG specification demands
    assert_compiled(probe(HOME=tmp_path, XDG_CACHE_HOME="relative/cache"))
    assert len(files_of(tmp_path / ".cache")) == 1
    assert not Path("relative").exists()


@pytest.mark.needs_compiler
@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_a_home_where_nothing_can_be_created(probe, tmp_path, variable):
    file = tmp_path / "file"  # nobody, not even root, creates folders below a file
    file.write_text("")
    assert_fallback(probe(**{variable: file / "home"}), "no cache folder for compiled kernels", "set XDG_CACHE_HOME")


@pytest.mark.needs_compiler
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_home_on_a_file_system_that_takes_no_files(probe):
    assert_fallback(probe(HOME="/proc"), "no cache folder for compiled kernels", "set XDG_CACHE_HOME")


@pytest.mark.needs_compiler
@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("there", [False, True])
def test_a_home_without_permission_to_write(probe, tmp_path, there):
    folder = tmp_path / "torch_lecture_ops" if there else tmp_path
    folder.mkdir(exist_ok=True)
    folder.chmod(0o500)
    try:
        assert_fallback(probe(XDG_CACHE_HOME=tmp_path), "cache folder", "Permission denied")
    finally:
        folder.chmod(0o700)


@pytest.mark.needs_compiler
def test_no_home_at_all(probe, tmp_path):
    answer = probe(HOME=None, UNKNOWN_USER=1)
    assert_fallback(answer, "no cache folder for compiled kernels", "set XDG_CACHE_HOME")
    assert_compiled(probe(HOME=None, UNKNOWN_USER=1, XDG_CACHE_HOME=tmp_path))


# --------------------------------------------------------------------------------------------------------- the compiler


@pytest.mark.needs_compiler
@pytest.mark.parametrize("arguments", ["-O1", "-O2 -DSOME='a b'"])
def test_a_compiler_with_arguments(probe, tmp_path, arguments):
    assert_compiled(probe(CC=f"cc {arguments}", XDG_CACHE_HOME=tmp_path))


@pytest.mark.needs_compiler
def test_an_empty_cc_means_the_compiler_of_the_system(probe, tmp_path):
    assert_compiled(probe(CC="", XDG_CACHE_HOME=tmp_path))


def executable(folder, text):
    file = folder / "compiler"
    file.write_bytes(text)
    file.chmod(0o700)
    return file


BROKEN = {
    "fails with a message": (b"#!/bin/sh\necho 'fatal: out of ideas' >&2\nexit 3\n", ["(exit 3)", "out of ideas"]),
    "fails without a message": (b"#!/bin/sh\nexit 1\n", ["(exit 1)", "no message"]),
    "fails with bytes that are no text": (b'#!/bin/sh\nprintf "\\377 bad" >&2\nexit 1\n', ["(exit 1)", "bad"]),
    "writes nothing": (b"#!/bin/sh\nexit 0\n", ["(exit 0)", "no message"]),
    "is no program": (b"\x7fELF but not really", ["cannot be run"]),
}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are told that they have no compiled kernels")
@pytest.mark.parametrize("text, reasons", BROKEN.values(), ids=BROKEN)
def test_a_compiler_that_fails(probe, tmp_path, text, reasons):
    answer = probe(CC=executable(tmp_path, text), XDG_CACHE_HOME=tmp_path / "cache")
    assert_fallback(answer, "the C compiler", str(tmp_path / "compiler"), *reasons)
    assert files_of(tmp_path / "cache") == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are told that they have no compiled kernels")
def test_a_compiler_that_takes_too_long_is_killed_with_what_it_started(tmp_path, monkeypatch):
    started = tmp_path / "started"
    slow = executable(tmp_path, f"#!/bin/sh\ntail -f /dev/null &\necho $! > {started}\nwait\n".encode())

    class Impatient(subprocess.Popen):
        def communicate(self, input=None, timeout=None):
            assert timeout == c_compiler.TIMEOUT_SECONDS
            while not (started.exists() and started.read_text().endswith("\n")):
                assert self.poll() is None
                time.sleep(0.01)
            return super().communicate(input, 0.01)  # not earlier, however long it takes the machine to come so far

    monkeypatch.setenv("CC", str(slow))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "Popen", Impatient)
    c_compiler._compiler.cache_clear()
    try:
        with pytest.raises(EngineUnavailable, match=r"cannot be run: .* timed out"):
            c_compiler.load("int one(void) { return 1; }")
    finally:
        c_compiler._compiler.cache_clear()
    assert not is_running(int(started.read_text()))
    assert files_of(tmp_path / "cache") == []


def is_running(pid):
    """Not if it is gone or a zombie, or if it has been killed and is about to find out."""
    try:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return False
    pending = int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)
    return status["State"][0] not in "ZX" and not pending & 1 << (signal.SIGKILL - 1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are told that they have no compiled kernels")
@pytest.mark.parametrize("command, reasons", [
    ("/nonexistent", ["no C compiler: '/nonexistent' not found", "install one or set CC"]),
    ("nowhere -O2", ["no C compiler: 'nowhere' not found", "install one or set CC"]),
    ('cc "', ["is no command", "No closing quotation"]),
])  # fmt: skip
def test_a_compiler_that_is_not_there(probe, tmp_path, command, reasons):
    assert_fallback(probe(CC=command, XDG_CACHE_HOME=tmp_path), *reasons)
    assert files_of(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are told that they have no compiled kernels")
def test_no_compiler_on_the_path(probe, tmp_path):
    assert_fallback(probe(PATH=tmp_path, XDG_CACHE_HOME=tmp_path), "no C compiler: 'cc' not found")


@pytest.mark.needs_compiler
def test_another_compiler(probe, tmp_path):
    other = shutil.which("clang") or shutil.which("gcc")
    if other is None:
        pytest.skip("neither clang nor gcc")
    assert_compiled(probe(CC=other, XDG_CACHE_HOME=tmp_path))


# ------------------------------------------------------------------------------------- fork, spawn and unpickling

LARGE = 200_000  # enough elements for several threads

FORK = f"""
import os, sys
import torch
from torch_lecture_ops.optim import SGD

torch.set_num_threads(2)
w = torch.nn.Parameter(torch.ones({LARGE}))
w.grad = torch.ones({LARGE})
optimizer = SGD([w], lr=0.25)

def steps(count):
    for _ in range(count):
        optimizer.step()
    assert optimizer.engine == "c"
    return set(w.detach().numpy())  # torch's own operators would wait in a child for threads that it does not have

assert steps(1) == {{0.75}}
child = os.fork()
if child == 0:
    os._exit(0 if steps(3) == {{0.0}} else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert steps(1) == {{0.5}}
sys.exit(status)
"""

SPAWN = """
import multiprocessing, pickle, sys
import torch
from torch_lecture_ops.optim import Adam

def work(pickled):
    optimizer = pickle.loads(pickled)
    (w,) = optimizer.param_groups[0]["params"]
    w.grad = torch.ones(3)
    optimizer.step()
    return optimizer.engine, w.tolist()

if __name__ == "__main__":
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = Adam([w], lr=0.5)
    w.grad = torch.ones(3)
    optimizer.step()
    pickled = pickle.dumps(optimizer)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(work, [pickled])
    optimizer.step()
    assert there == ("c", w.tolist()), there
"""


@pytest.mark.needs_compiler
def test_a_process_forked_after_a_step_goes_on_by_itself(tmp_path):
    python(FORK, XDG_CACHE_HOME=tmp_path)


@pytest.mark.needs_compiler
def test_a_spawned_process_goes_on_with_a_pickled_optimizer(tmp_path):
    script = tmp_path / "spawn.py"  # spawn imports the main module, so it must be a file
    script.write_text(SPAWN)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment(XDG_CACHE_HOME=tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.needs_compiler
@pytest.mark.parametrize("cls, options", [(SGD, {"momentum": 0.9}), (Adam, {})])
def test_an_unpickled_optimizer_goes_on_like_the_pickled_one(cls, options):
    def step(optimizer):
        (w,) = optimizer.param_groups[0]["params"]
        w.grad = torch.arange(5.0)
        optimizer.step()
        return w.tolist()

    optimizer = cls([torch.nn.Parameter(torch.ones(5))], lr=0.125, **options)
    for _ in range(3):
        step(optimizer)
        copy = pickle.loads(pickle.dumps(optimizer))
        assert step(copy) == step(optimizer)
        assert copy.engine == optimizer.engine == "c"
