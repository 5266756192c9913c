"""Headless Chromium that asks nothing of the network, driven by selenium: for the page's test and its timing."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


def missing() -> str | None:
    """What is wanting, or None."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return "needs Debian's chromium and chromium-driver"
    try:
        import selenium.webdriver  # noqa: F401
    except ImportError:
        return "needs selenium (extra `test`)"
    return None


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator:
    """A driver whose browser keeps its files in `profile`, with logs of the console and of requests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(shutil.which("chromedriver"), env=os.environ | {"HOME": "/nonexistent"})
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()
