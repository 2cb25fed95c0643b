"""Results on disk: a line of JSON for each run, appended when the run has ended.

A run that is there is not repeated, so that a killed comparison goes on where it was. A line is written by one call and
forced to the disk; a line that was torn all the same (the power failed, the disk was full) is skipped and named.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from .run import Run
from .setting import Setting, key, machine, versions

FILE = "results.jsonl"


class Store:
    """The results of a folder, by key; `damaged` has the numbers of the lines that are none."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.runs: dict[str, Run] = {}
        self.damaged: list[int] = []
        self.ends_in_mid_line = False
        for number, line in enumerate(self.lines(), start=1):
            try:
                record = json.loads(line)
                self.runs[record["key"]] = from_json(record["run"])
            except (ValueError, TypeError, KeyError):
                self.damaged.append(number)

    def lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                for line in file:
                    self.ends_in_mid_line = not line.endswith(b"\n")
                    yield line
        except FileNotFoundError:
            return

    def find(self, setting: Setting, digest: str) -> Run | None:
        return self.runs.get(key(setting, digest))

    def append(self, run: Run, digest: str) -> None:
        name = key(run.setting, digest)
        record = {"key": name, "run": run_to_json(run), "digits": digest, "versions": versions(), "machine": machine()}
        record["date"] = datetime.now().isoformat(sep=" ", timespec="seconds")
        line = ("\n" if self.ends_in_mid_line else "") + json.dumps(record, allow_nan=False) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            contents = line.encode()
            if os.write(file, contents) < len(contents):
                self.ends_in_mid_line = True
                raise OSError(None, "no space left for a whole line")
            os.fsync(file)
        finally:
            os.close(file)
        self.ends_in_mid_line = False
        self.runs[name] = run


def run_to_json(run: Run) -> dict[str, Any]:
    """As JSON has it, the setting as a dictionary."""
    row = dict(vars(run))
    return finite(row | {"setting": dict(vars(run.setting))})


def from_json(row: dict[str, Any]) -> Run:
    """The run again: what was NaN or infinite is NaN."""
    run = Run(**row | {"setting": Setting(**row["setting"])})
    losses = [math.nan if loss is None else loss for loss in run.losses]
    train_loss = math.nan if run.train_loss is None else run.train_loss
    return Run(**vars(run) | {"losses": losses, "train_loss": train_loss})


def finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have and a diverged run does."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
