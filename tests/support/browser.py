"""A headless browser: what becomes of a page in it."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",  # a sandbox cannot be made as root in a container
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
WIDTHS = (400, 800, 1400)
"""Pixels of a telephone, a tablet and a screen."""
DARK = "--blink-settings=preferredColorScheme=0"
_POLICY = 'http-equiv="Content-Security-Policy"'
_PROBE = """
<script>
addEventListener("load", () => {
const root = document.documentElement;
const boxes = [...document.querySelectorAll("svg")].flatMap(svg =>
  [...svg.querySelectorAll("text")].map(text => {
    const box = text.getBoundingClientRect(), frame = svg.getBoundingClientRect();
    return {text: text.textContent, svg: svg.getAttribute("aria-label") ?? "",
            box: [box.left, box.top, box.right, box.bottom],
            frame: [frame.left, frame.top, frame.right, frame.bottom]};
  }));
const seen = {
  width: window.innerWidth,
  scrollWidth: root.scrollWidth,
  images: [...document.images].map(image => [image.naturalWidth, image.naturalHeight]),
  drawings: document.querySelectorAll("svg[role=img]").length,
  scripts: document.scripts.length,
  handlers: document.querySelectorAll("[onerror]").length,
  title: document.title,
  text: document.body.innerText,
  boxes,
};
const result = parent.document.createElement("output");
result.dataset.seen = JSON.stringify(seen);
parent.document.body.append(result);
});
</script>
"""
# A window has a smallest width that is wider than a telephone; a frame has none.
_FRAME = (
    '<!DOCTYPE html><body><iframe width="{width}" height="900" style="border: 0" srcdoc="{page}">'
)


def find_browser() -> str:
    """Return the browser; skip the test where there is none, fail it where there must be one."""
    for name in _NAMES:
        found = shutil.which(name)
        if found:
            return found
    reason = f"none of {', '.join(_NAMES)} is installed"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def browse(browser: str, folder: Path, page: Path, *options: str) -> str:
    """Run the browser on a page; return what it prints."""
    profile = folder / "profile"
    done = subprocess.run(
        [browser, *OPTIONS, f"--user-data-dir={profile}", *options, page.as_uri()],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=True,
    )
    return done.stdout


def probe(browser: str, folder: Path, page: str, width: int) -> Any:
    """Return what a page is once a browser has laid it out at a width in pixels.

    The page's own policy, which forbids scripts, is taken out: it must not be what keeps hostile
    names from running.
    """
    assert page.count(_POLICY) == 1
    opened = page.replace(_POLICY, 'name="no-policy"').replace("</body>", _PROBE + "</body>")
    framed = folder / "framed.html"
    text = _FRAME.format(width=width, page=html.escape(opened))
    framed.write_text(text, encoding="utf-8")
    document = browse(browser, folder, framed, "--window-size=1600,1000", "--dump-dom")
    finder = _Seen()
    finder.feed(document)
    assert finder.seen is not None, document[-2000:]
    return json.loads(finder.seen)


def assert_letters_lie_inside_and_apart(seen: Any) -> None:
    """Check the texts of all drawings that `probe` saw."""
    for text in seen["boxes"]:
        left, top, right, bottom = text["box"]
        assert right > left, text
        frame = text["frame"]
        assert left >= frame[0] - 0.5, text
        assert right <= frame[2] + 0.5, text
        assert top >= frame[1] - 0.5, text
        assert bottom <= frame[3] + 0.5, text
    for one, other in combinations(seen["boxes"], 2):
        a, b = one["box"], other["box"]
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 2 or b[3] <= a[1] + 2
        assert apart, (one, other)


class _Seen(HTMLParser):
    seen: str | None = None

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen = dict(attrs).get("data-seen", self.seen)
