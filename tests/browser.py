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

_LOW_CONTRAST = """
const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => rgb(color).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (one) => {
    const color = getComputedStyle(one).backgroundColor;
    return rgb(color)[3] === 0 ? behind(one.parentElement) : color;
};
const ratio = (one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
};
return [...document.querySelectorAll("#app *")]
    .filter((one) => [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
    .filter((one) => one.checkVisibility() && !one.closest(":disabled") && one.tagName !== "OPTION")
    .filter((one) => ratio(one) < 4.5).map((one) => `${one.className || one.id || one.tagName} ${ratio(one)}`);
"""


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

    def hard_to_read(self) -> list[str]:
        """Texts with less than 4.5 to 1 between them and what is behind them (WCAG AA)."""
        return list(self.run(_LOW_CONTRAST))

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
