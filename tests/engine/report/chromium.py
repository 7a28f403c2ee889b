"""A headless Chromium over its DevTools protocol, for tests that look at a page as people do.

It opens files, says what it logged and fetched, and takes clicks and keys.  Spoken through tornado's websocket client,
which Dask brings along.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--remote-debugging-port=0",
)
SECONDS = 30.0
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Tab": 9}


def executable() -> str | None:
    """Chromium, by $CHROMIUM or on the path; None where there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in EXECUTABLES if (found := shutil.which(name))), None)


class Chromium:
    """One browser with one page; every call waits for its answer."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._loop = asyncio.new_event_loop()
        self._next = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reader: asyncio.Future[None] | None = None
        self._session: str | None = None
        self.problems: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Self:
        program = executable()
        assert program is not None
        arguments = [program, *QUIET, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._do(self._connect())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:  # ends with the browser's end of the socket
            self._loop.run_until_complete(asyncio.wait({self._reader}, timeout=SECONDS))
        self._loop.close()

    def open(self, page: Path) -> None:
        """Open a file and wait until it says that it has drawn everything."""
        self.call("Page.navigate", url="about:blank")
        self.wait('location.href === "about:blank"')
        self.problems.clear()
        self.requests.clear()
        self.call("Page.navigate", url=page.as_uri())
        self.wait('location.href !== "about:blank" && document.documentElement?.dataset.drawn')

    def size(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """The window's size, and whether the page is to be dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", media="screen", features=[scheme, motion])

    def value(self, expression: str) -> Any:
        """What an expression comes to, as JSON; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Until an expression is true."""
        until = time.monotonic() + SECONDS
        while not (found := self.value(expression)):
            if time.monotonic() > until:
                raise AssertionError(f"{expression} did not come true; {self.problems}")
            time.sleep(0.02)
        return found

    def click(self, x: float, y: float) -> None:
        """A click at a point of the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            more = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def press(self, key: str) -> None:
        """A key, pressed and let go."""
        for kind in ("rawKeyDown", "char", "keyUp") if key == "Enter" else ("rawKeyDown", "keyUp"):
            text = {"text": "\r"} if kind == "char" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key], **text)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(answer["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        width, height = self.value("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        return {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}}

    def call(self, method: str, **parameters: Any) -> Any:
        """One command to the page."""
        return self._do(self._send(method, parameters))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(work, SECONDS))

    async def _connect(self) -> None:
        from tornado.websocket import websocket_connect

        said = self._profile / "DevToolsActivePort"
        while not (said.is_file() and said.read_text().count("\n")):
            if self._process.poll() is not None:
                raise AssertionError(f"chromium ended with {self._process.returncode}")
            await asyncio.sleep(0.02)
        port, path = said.read_text().split("\n")[:2]
        self._socket = await websocket_connect(f"ws://127.0.0.1:{port}{path}", max_message_size=1 << 28)
        self._reader = asyncio.ensure_future(self._read())
        targets = (await self._send("Target.getTargets", {}))["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = await self._send("Target.attachToTarget", {"targetId": page, "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._send(f"{domain}.enable", {})

    async def _send(self, method: str, parameters: dict[str, Any]) -> Any:
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        answer = self._answers[self._next] = self._loop.create_future()
        await self._socket.write_message(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        return await answer

    async def _read(self) -> None:
        while (text := await self._socket.read_message()) is not None:
            message = json.loads(text)
            if "id" in message:
                waiting = self._answers.pop(message["id"])
                if "error" in message:
                    waiting.set_exception(AssertionError(str(message["error"])))
                else:
                    waiting.set_result(message["result"])
            elif told := _TELLERS.get(message["method"]):
                told(self, message["params"])

    def _logged(self, params: dict[str, Any]) -> None:
        if params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])

    def _printed(self, params: dict[str, Any]) -> None:
        if params["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))

    def _thrown(self, params: dict[str, Any]) -> None:
        self.problems.append(str(params["exceptionDetails"]))

    def _fetched(self, params: dict[str, Any]) -> None:
        if not params["request"]["url"].startswith("data:"):
            self.requests.append(params["request"]["url"])


_TELLERS: dict[str, Callable[[Chromium, dict[str, Any]], None]] = {
    "Log.entryAdded": Chromium._logged,
    "Runtime.consoleAPICalled": Chromium._printed,
    "Runtime.exceptionThrown": Chromium._thrown,
    "Network.requestWillBeSent": Chromium._fetched,
}
