"""A headless Chromium for tests and screenshots: opens pages, and notes what it was asked to load and complained of."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--force-device-scale-factor=1",
)  # fmt: skip
_NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path | str, fragment: str = "") -> None:
        """Load a file or an address anew; changing only the part behind `#` would not."""
        self.driver.get("about:blank")
        self.driver.get((page if isinstance(page, str) else page.as_uri()) + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str) -> Any:
        """Until an expression is true, ten seconds at most; its value."""
        return WebDriverWait(self.driver, 10, poll_frequency=0.02).until(lambda _: self.run(f"return {condition}"))

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def count(self, selector: str) -> int:
        return int(self.run("return document.querySelectorAll(arguments[0]).length", selector))

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def resize(self, width: int, height: int) -> None:
        """Of the page, not of the window around it."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the last call."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]

    def loaded(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


@contextmanager
def open_browser(*, width: int = 1400, height: int = 900) -> Iterator[Browser]:
    """A browser that is closed at the end.

    Raises:
        FileNotFoundError: there is no Chromium, or no driver of it.
    """
    binary, service = next(filter(None, map(shutil.which, _NAMES)), None), shutil.which("chromedriver")
    if binary is None or service is None:
        raise FileNotFoundError("no Chromium with chromedriver here; `make test-browser` installs them or says how")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*_FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(service))
    try:
        browser = Browser(driver)
        browser.resize(width, height)
        yield browser
    finally:
        driver.quit()
