"""Drives a real Chromium by its DevTools protocol, over a pair of pipes: nothing else has to be installed."""

import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from itertools import count

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or os.name == "nt", reason="pages are looked at in Chromium, which is not installed"
)
OPTIONS = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
OPTIONS += ["--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
OPTIONS += ["--no-first-run"]
SECONDS = 120  # for an answer; a busy machine is slow
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Tab": 9, " ": 32}


@contextmanager
def browser(folder):
    """A Chromium with a profile of its own in a folder."""
    (inward, commands), (answers, outward) = os.pipe(), os.pipe()
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
    # It reads from 3 and writes to 4. Where one of the two is the other's number the moves would overwrite it.
    moves = f'exec 8<&{inward} 9>&{outward} 3<&8 4>&9 8<&- 9>&-; exec "$0" "$@"'
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(["bash", "-c", moves, *command], pass_fds=(inward, outward), **quiet)
    os.close(inward)
    os.close(outward)
    with open(commands, "wb", buffering=0) as to, open(answers, "rb", buffering=0) as of:
        try:
            yield Browser(to, of)
        finally:
            process.terminate()
            process.wait(SECONDS)


class Browser:
    def __init__(self, to, of):
        self.to, self.of, self.rest = to, of, b""
        self.numbers, self.events = count(1), []

    def call(self, method, session=None, **params):
        message = {"id": next(self.numbers), "method": method, "params": params}
        self.to.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self.next()).get("id") != message["id"]:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def next(self):
        while b"\0" not in self.rest:
            more = self.of.read(1 << 16)
            assert more, "Chromium ended"
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, address, width=1280, height=900, dark=False, calm=False):
        """A page in a window of this size, for a reader who wants it dark, or without motion."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        wishes = {"prefers-color-scheme": "dark" if dark else "light"}
        wishes["prefers-reduced-motion"] = "reduce" if calm else "no-preference"
        page.call("Emulation.setEmulatedMedia", features=[dict(name=n, value=v) for n, v in wishes.items()])
        page.call("Page.navigate", url=address)
        page.until("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page


class Page:
    def __init__(self, browser, session, target):
        self.browser, self.session, self.target = browser, session, target

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def value(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def until(self, expression):
        end = time.monotonic() + SECONDS
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"{expression} did not come true"
            time.sleep(0.02)
        return value

    def resize(self, width, height, dots=1):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=dots, mobile=False
        )

    def complaints(self):
        """What it wrote on its console, and its errors."""
        self.value("0")
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [e["params"] for e in self.browser.events if e.get("sessionId") == self.session and e["method"] in kinds]

    def press(self, *keys, shift=False):
        for key in keys:
            text = {"Enter": "\r", " ": " "}.get(key, "")
            code = dict(key=key, windowsVirtualKeyCode=KEYS[key], modifiers=8 if shift else 0)
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **code)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path, whole=False):
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
