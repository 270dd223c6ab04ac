"""A headless Chromium, driven over its debugging pipe: no driver program, no network, no library.

In: a page's file. Out: what expressions evaluate to in it, and pictures of it. Knows nothing of reports.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",  # commands on file descriptor 3, answers on 4
)
READ_BYTES = 1 << 16


def find_browser() -> str | None:
    """The program, or None where this machine has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """`with Browser(program, profile=folder) as browser:` one page at a time."""

    def __init__(self, program: str, *, profile: Path) -> None:
        self._command = [program, *FLAGS, f"--user-data-dir={profile}"]
        self._number = 0
        self._pending = b""
        self._session = ""

    def __enter__(self) -> "Browser":
        commands_out, self._commands = os.pipe()
        self._answers, answers_in = os.pipe()
        # dup2 in the shell: Popen can pass descriptors on, but not under other numbers
        redirected = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, "bash", *self._command],
            pass_fds=(commands_out, answers_in),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands_out)
        os.close(answers_in)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = ""
        with contextlib.suppress(OSError, EOFError):  # it may be gone before it answers
            self._call("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._commands)
        os.close(self._answers)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path) -> None:
        """Returns when the page and all its pictures are loaded."""
        self._call("Page.enable")
        self._call("Page.navigate", url=page.resolve().as_uri())
        is_complete = "document.readyState === 'complete'"
        self.evaluate(f"new Promise(done => {is_complete} ? done(1) : addEventListener('load', () => done(1)))")

    def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression, awaited; an exception in the page is raised here."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """The visible part as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
        raise EOFError(f"{method}: the browser ended without an answer")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            message, end, rest = self._pending.partition(b"\0")
            if end:
                self._pending = rest
                yield json.loads(message)
                continue
            new = os.read(self._answers, READ_BYTES)
            if not new:
                return
            self._pending += new
