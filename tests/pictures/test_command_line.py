"""`python -m torch_lecture_ops.pictures`: files, formats, and errors of one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

from torch_lecture_ops.pictures import animation, choices, command_line, digits, races, style, surfaces

ROOT = Path(__file__).parents[2]
QUICK = {"race": ["--optimizer", "sgd,adam:larson", "--steps", "3", "--surface", "valley"]}


@pytest.fixture(autouse=True)
def threads():
    """The command takes one; the other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(capsys, *argv):
    assert command_line.main(list(argv)) == 0
    return capsys.readouterr().out.split()


def complaint(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        command_line.main(list(argv))
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("pictures")
    return exit.value.code, err


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_every_picture_is_a_command(name, tmp_path, capsys):
    if name == "glorot" and not digits.SUBSET.exists():
        pytest.skip("the digits of a checkout are not there")
    files = run(capsys, name, *QUICK.get(name, []), "--out", str(tmp_path / "new" / "folder"), "--theme", "light,dark")
    assert sorted(files) == sorted(map(str, (tmp_path / "new" / "folder").iterdir()))
    assert sum(file.endswith("_dark.png") for file in files) == len(files) / 2
    assert all(Path(file).read_bytes().startswith(b"\x89PNG") for file in files)


def test_all_formats_of_a_race(tmp_path, capsys):
    formats = [*command_line.FORMATS, *command_line.WRITERS]
    assert set(formats) == {"png", "svg", "gif", "html"}
    files = run(capsys, "race", *QUICK["race"], "--format", ",".join(formats), "--out", str(tmp_path))
    assert files == [str(tmp_path / f"race_valley.{kind}") for kind in formats]
    assert (tmp_path / "race_valley.gif").read_bytes().startswith(b"GIF89a")
    assert "<svg" in (tmp_path / "race_valley.svg").read_text()
    assert (tmp_path / "race_valley.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_options_reach_the_race(tmp_path, capsys, monkeypatch):
    seen = {}
    picture = races.race("bowl", ["sgd"], steps=1)
    monkeypatch.setattr(command_line, "race", lambda **given: seen.update(given) or picture)
    run(capsys, "race", "--optimizer", "ADAM:larson,sgd,sgd", "--start=-1.5,0.5", "--steps", "7", "--surface", "Camel",
        "--lr", "adam:larson=0.5,sgd=1e-3", "--theme", "dark", "--out", str(tmp_path))  # fmt: skip
    assert seen == dict(
        surface="camel", optimizers=["adam:form=larson", "sgd"], start=(-1.5, 0.5), steps=7,
        rates={"adam:form=larson": 0.5, "sgd": 0.001}, theme="dark",
    )  # fmt: skip


def test_settings_of_activations_are_in_the_names_of_files(tmp_path, capsys):
    files = run(capsys, "activation", "--activation", "elu:alpha=0.5,relu", "--out", str(tmp_path))
    assert files == [str(tmp_path / "elu_alpha_0.5.png"), str(tmp_path / "relu.png")]


@pytest.mark.parametrize("argv, words", [
    (["rcae"], ["unknown picture 'rcae'", *command_line.COMMANDS]),
    (["race", "--surface", "baele"], ["unknown 'baele'", *surfaces.SURFACES, "network"]),
    (["race", "--optimizer", "sgd,adma"], ["unknown optimizer 'adma'", *choices.OPTIMIZERS, "momentum"]),
    (["race", "--optimizer", "adam:larsn"], ["'adam:larsn'", "larsn"]),
    (["race", "--format", "pgn"], ["unknown 'pgn'", "png, svg, gif"]),
    (["valley", "--format", "gif"], ["unknown 'gif'", "png, svg"]),
    (["race", "--theme", "drak"], ["unknown 'drak'", *style.THEMES]),
    (["race", "--start", "1"], ["must be two numbers, x,y, got '1'"]),
    (["race", "--steps", "0"], ["must be a whole number of at least 1"]),
    (["race", "--lr", "sgd"], ["must be written optimizer=rate, got 'sgd'"]),
    (["race", "--lr", "sgd=-1"], ["must be a positive number"]),
    (["race", "--optimizer", "adam", "--lr", "sgd=1"], ["a rate for 'sgd', which is none of adam"]),
    (["activation", "--activation", "silo"], ["unknown activation 'silo'", "silu"]),
    (["schedule", "--schedule", "stepp"], ["unknown schedule 'stepp'", "step, exponential"]),
    (["race", "--surfaces", "beale"], ["unrecognized arguments"]),
])  # fmt: skip
def test_mistakes_are_told_in_one_line(argv, words, tmp_path, capsys):
    status, line = complaint(capsys, *argv, *(["--out", str(tmp_path)] if len(argv) > 1 else []))
    assert status == 2
    assert all(word in line for word in words), line


def test_what_is_no_mistake_of_the_command(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    status, line = complaint(capsys, "valley", "--out", str(tmp_path / "file"))
    assert (status, "cannot write to" in line) == (1, True)
    status, line = complaint(capsys, "glorot", "--data-dir", str(tmp_path), "--out", str(tmp_path))
    assert (status, "there are none in" in line) == (1, True)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "race", interrupted)
    assert command_line.main(["race", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\npictures: interrupted\n"


def test_help(capsys):
    assert command_line.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in command_line.COMMANDS)
    assert command_line.main([]) == 2
    with pytest.raises(SystemExit):
        command_line.main(["race", "--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--surface", "--optimizer", "--start", "--lr", "--out"))


@pytest.mark.processes
@pytest.mark.parametrize("argv, heavy", [
    (["race", "--help"], ["matplotlib", "PIL", "lightning", "scipy", "torch._dynamo"]),
    (["race", "--optimizer", "sgd,nesterov", "--steps", "2"], ["matplotlib.pyplot", "lightning", "torch._dynamo"]),
])  # fmt: skip
def test_nothing_waits_for_an_import_that_it_does_not_need(argv, heavy, tmp_path):
    code = f"""if True:
        import runpy, sys
        sys.argv = ["pictures", *{argv!r}]
        try:
            runpy.run_module("torch_lecture_ops.pictures", run_name="__main__")
        except SystemExit as exit:
            print("status", exit.code, "imported", [name for name in {heavy} if name in sys.modules])
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "status 0 imported []", done.stdout + done.stderr


def test_a_page_is_the_race_of_the_options(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command_line, "race_page", lambda **given: f"{given['steps']} × {given['theme']}")
    run(capsys, "race", *QUICK["race"], "--format", "html", "--theme", "dark", "--out", str(tmp_path))
    assert (tmp_path / "race_valley_dark.html").read_text(encoding="utf-8") == "3 × dark"


def test_a_gif_is_the_race_of_the_options(tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(command_line, "animate", lambda path, **given: seen.append((path, given["steps"])))
    run(capsys, "race", *QUICK["race"], "--format", "gif", "--out", str(tmp_path))
    assert seen == [(tmp_path / "race_valley.gif", 3)]
    assert animation.animate is not command_line.animate
