"""A headless browser that notes every error and every request."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["Browser", "browser"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """What the tests ask of a page."""

    def __init__(self, driver: "Chrome") -> None:
        self.driver = driver

    def show(self, url: str, *, width: int = 1280, dark: bool = False) -> None:
        """Open a page on a screen of this width."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.prefer(dark=dark)
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)  # what came before is not this page's
        self.driver.get(url)

    def prefer(self, *, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def ask(self, script: str, *arguments: Any) -> Any:
        """Run a function's body in the page; return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def switch(self, *, dark: bool) -> None:
        """Change the scheme of an open page, and wait until the page was told and drawn again.

        Which frame brings the change is the browser's business, so the page is asked, not timed.
        """
        self.ask(
            "const dark = matchMedia('(prefers-color-scheme: dark)');"
            "window.told = new Promise((done) => dark.addEventListener('change', () => done()));"
        )
        self.prefer(dark=dark)
        self.ask("return window.told")
        self.settle()

    def settle(self) -> None:
        """Wait until the page was drawn once more."""
        self.ask("return new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def press(self, selector: str, *keys: str) -> None:
        """Press keys where the element that the selector finds has the focus."""
        found = self.driver.find_element("css selector", selector)
        self.ask("arguments[0].focus()", found)
        found.send_keys(*keys)

    def errors(self) -> list[str]:
        """What the console said since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened."""
        messages = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium; where there is none, skip the test, but fail on a CI machine."""
    programs = [shutil.which(name) for name in BROWSERS]
    program = next(filter(None, programs), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        reason = f"needs one of {', '.join(BROWSERS)}, and chromedriver, on the path"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()
