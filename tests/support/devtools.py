"""A headless browser under control: pages opened, files chosen, scripts run in them.

It speaks Chromium's DevTools protocol over two pipes, so that nothing waits by the clock.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.support.browser import OPTIONS
from tests.support.pages import BASH

_SECONDS = 120_000


class Page:
    """A tab of the browser."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._session = 0, ""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self._ask("Page.enable")
        self._ask("Runtime.enable")

    def open(self, address: str) -> None:
        self._ask("Page.navigate", url=address)

    def wait_for(self, condition: str) -> None:
        """Wait until an expression holds, seen after every change of the page."""
        self.value(f"""new Promise((resolve, reject) => {{
            const look = () => ({condition}) && resolve(true);
            new MutationObserver(look).observe(document, {{
                subtree: true, childList: true, characterData: true, attributes: true }});
            setTimeout(() => reject(new Error(document.body.innerText)), {_SECONDS});
            look();
        }})""")

    def value(self, expression: str) -> Any:
        """Return what an expression is, or the promise that it is settles to."""
        found = self._ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def choose(self, selector: str, *files: Path) -> None:
        """Choose files in an input of the page."""
        root = self._ask("DOM.getDocument")["root"]["nodeId"]
        node = self._ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._ask("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def screenshot(self, width: int, height: int) -> bytes:
        """Return the page as a PNG, in a window of a width and height in pixels."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        return base64.b64decode(self._ask("Page.captureScreenshot")["data"])

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        parts = bytearray()
        while not parts.endswith(b"\0"):
            part = self._answers.read(1)
            assert part, "the browser is gone"
            parts += part
        return dict(json.loads(parts[:-1]))


@contextmanager
def opened_browser(browser: str, folder: Path) -> Iterator[Page]:
    """Start a browser whose profile lies in a folder; end it at the end."""
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    options = [*OPTIONS, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        # The protocol's pipes are the descriptors 3 and 4.
        [BASH, "-c", f'exec "$@" 3<&{commands_out} 4>&{answers_in}', BASH, browser, *options],
        pass_fds=(commands_out, answers_in),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands_out)
    os.close(answers_in)
    try:
        with os.fdopen(commands_in, "wb") as commands, os.fdopen(answers_out, "rb") as answers:
            yield Page(commands, answers)
    finally:
        process.kill()
        process.wait()
