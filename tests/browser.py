"""A real Chromium for tests of pages: Debian's `chromium` and `chromium-driver`, or whatever is on the path."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
PATIENCE = 120.0


class NoBrowserError(Exception):
    """There is no Chromium to start, and why."""


class Browser:
    """One headless Chromium with a profile of its own."""

    def __init__(self) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        driver = shutil.which("chromedriver")
        if program is None or driver is None:
            raise NoBrowserError("no Chromium with its driver is installed: apt-get install chromium chromium-driver")
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = program
        self._profile = Path(tempfile.mkdtemp(prefix="kv-chromium-"))
        for flag in (*FLAGS, f"--user-data-dir={self._profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.driver.set_page_load_timeout(PATIENCE)

    def close(self) -> None:
        self.driver.quit()
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, url: str, *, charts: bool = True) -> None:
        """Go to a page and wait until its charts are drawn."""
        self.driver.get(url)
        if charts:
            self.wait(lambda: self.run("return document.body.dataset.ready === 'yes'"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"did not happen within {PATIENCE:g} s; console: {self.console()}")

    def view(self, width: int, *, dark: bool) -> None:
        """Look at the page on a screen of that width, light or dark."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def console(self) -> list[str]:
        """What the page complained about, Plotly's own style sheets aside: the policy refuses them, and may."""
        found = [entry["message"] for entry in self.driver.get_log("browser")]
        return [text for text in found if "Applying inline style violates" not in text]
