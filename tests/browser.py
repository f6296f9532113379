"""A headless Chromium for tests of pages, driven by its own protocol: no driver beside the browser is needed."""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--mute-audio", "--remote-debugging-port=0"),
    *("--autoplay-policy=no-user-gesture-required", "--remote-allow-origins=*"),
)
WAIT_S = 30.0


class Browser:
    """One tab. ``errors``: what the page wrote to the console as an error or warning, and what it threw."""

    def __init__(self, address: str):
        self._socket = websocket.create_connection(address, timeout=WAIT_S, suppress_origin=True)
        self._last_id = 0
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the Chrome DevTools Protocol -> its result."""
        self._last_id += 1
        self._socket.send(json.dumps({"id": self._last_id, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            self._note(message)
            if message.get("id") == self._last_id:
                assert "error" not in message, message["error"]
                return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(params["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.errors.append(str([argument.get("value") for argument in params["args"]]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str, *, limit_s: float = WAIT_S) -> None:
        """Return as soon as an expression is true; an element that is there is."""
        deadline = time.monotonic() + limit_s
        while not self.ask(f"Boolean({script})"):
            assert time.monotonic() < deadline, f"waited {limit_s:g} s for {script}; errors of the page: {self.errors}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of an element."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.ask(f"{find}.scrollIntoView({{block: 'center'}})")
        x, y = self.ask(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({find}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Enter text where the focus is."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, text: str = "") -> None:
        """One key: a letter, or Enter, Tab and their like."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27}.get(key, ord(key.upper()[0]))
        text = text or ("\r" if key == "Enter" else key if len(key) == 1 else "")
        pressed = {"key": key, "windowsVirtualKeyCode": code} | ({"text": text} if text else {})
        self.call("Input.dispatchKeyEvent", type="keyDown", **pressed)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def show(self, *, width: int, height: int, is_dark: bool = False) -> None:
        """The size of the window, and which colours the user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a new profile in ``folder``; it ends with the block."""
    assert CHROMIUM
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        port = _wait_for_port(folder, process)
        pages = requests.get(f"http://127.0.0.1:{port}/json/list", timeout=WAIT_S).json()
        yield Browser(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=WAIT_S)


def _wait_for_port(folder: Path, process: subprocess.Popen) -> int:
    """The port on which the browser listens, which it writes down once it does."""
    told, deadline = folder / "DevToolsActivePort", time.monotonic() + 2 * WAIT_S
    while not (told.exists() and told.read_text().count("\n")):
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
        time.sleep(0.05)
    return int(told.read_text().split("\n")[0])
