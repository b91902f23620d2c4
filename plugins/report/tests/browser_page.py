"""A report's page in a browser: what it shows, and what it does when it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


class Page:
    """The page.

    Args:
        browser: Shows it.
        path: The file.
    """

    def __init__(self, browser: Chrome, path: Path) -> None:
        self.browser = browser
        self.url = path.as_uri()

    def open(self, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.browser.get(self.url)
        assert self.ask("document.body.dataset.drawn") == "yes"

    def ask(self, expression: str) -> Any:
        return self.browser.execute_script(f"return {expression}")

    def find(self, selector: str) -> str:
        return f"document.querySelector({json.dumps(selector)})"

    def text(self, selector: str) -> str:
        """All text in an element, in one line."""
        element = self.find(selector)
        return " ".join(self.ask(f"({element}.innerText ?? {element}.textContent)").split())

    def click(self, selector: str) -> None:
        self.ask(f"{self.find(selector)}.click()")

    def press(self, selector: str, key: str) -> None:
        event = f"new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}})"
        self.ask(f"{self.find(selector)}.dispatchEvent({event})")

    def point(self, selector: str, x: float = 0.5, y: float = 0.5, press: bool = False) -> str:
        """Move the real pointer into an element, as parts of its size; return the tooltip."""
        element = self.find(selector)
        # Scrolling hides the tooltip, with the next frame.
        self.browser.execute_async_script(
            f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )
        box = self.ask(f"{element}.getBoundingClientRect()")
        at = {"x": box["left"] + x * box["width"], "y": box["top"] + y * box["height"]}
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if press else ())):
            button = {"button": "left", "clickCount": 1} if press else {}
            self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **at, **button})
        return "" if self.ask("document.getElementById('tip').hidden") else self.text("#tip")

    def pixel(self, rank: int, bucket: int) -> tuple[int, ...]:
        """The colour of a cell of the heat map."""
        # From a copy: the browser would complain that the map itself is not made to be read.
        script = """
            const context = new OffscreenCanvas(1, 1).getContext("2d");
            context.drawImage(document.getElementById("heat"), -arguments[0], -arguments[1]);
            return [...context.getImageData(0, 0, 1, 1).data];
        """
        return tuple(self.browser.execute_script(script, bucket, rank))

    def colour(self, variable: str) -> tuple[int, ...]:
        """A colour of the style sheet."""
        value = self.ask(
            f"getComputedStyle(document.documentElement).getPropertyValue('{variable}')"
        )
        return (*bytes.fromhex(value.strip().lstrip("#")), 255)

    def _log(self, kind: str) -> list[Any]:
        return list(self.browser.get_log(kind))  # type: ignore[no-untyped-call]

    def console(self) -> list[Any]:
        return self._log("browser")

    def requests(self) -> set[str]:
        """What the browser has been asked to load since this was asked last."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }
