"""A hub in a process of its own, and Chromium in front of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

PASSWORD = "a long enough sentence"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Site:
    """`shots` keeps the pictures that the tests take: artefacts to look at."""

    url: str
    directory: Path
    shots: Path

    def call(self, method: str, path: str, **body: object) -> httpx.Response:
        token = (self.directory / "hub" / "api-token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        answer = httpx.request(method, f"{self.url}/api/v1{path}", json=body or None, headers=headers)
        answer.raise_for_status()
        return answer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("browser") / "estate"
    refloat = [sys.executable, "-m", "refloat"]
    subprocess.run([*refloat, "simulate", str(directory), "--vms", "4"], check=True, cwd=ROOT, timeout=60)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    settings = directory / "refloat.yaml"
    settings.write_text(yaml.safe_dump({**yaml.safe_load(settings.read_text()), "listen": listen}))
    log = (directory / "hub.log").open("wb")
    environment = {**os.environ, "REFLOAT_CONFIG": str(settings)}
    with subprocess.Popen([*refloat, "serve"], cwd=ROOT, env=environment, stdout=log, stderr=log) as hub:
        try:
            found = Site(f"http://{listen}", directory, _shots(directory))
            _prepare(found, hub)
            yield found
        finally:
            hub.terminate()
            hub.wait(30)


def _shots(directory: Path) -> Path:
    shots = Path(os.environ.get("REFLOAT_TEST_SHOTS", directory / "shots"))
    shots.mkdir(parents=True, exist_ok=True)
    return shots


def _prepare(site: Site, hub: subprocess.Popen[bytes]) -> None:
    """Waits for the hub, adds an operator, and syncs each target once."""
    deadline = time.monotonic() + 60
    while True:
        assert hub.poll() is None, (site.directory / "hub.log").read_text()
        try:
            httpx.get(f"{site.url}/api/v1/health").raise_for_status()
            break
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the hub does not come up"
            time.sleep(0.1)
    site.call("POST", "/users", name="anna", role="admin", password=PASSWORD)
    site.call("POST", "/users", name="victor", role="viewer", password=PASSWORD)
    names = ["vm1", "vm2", "vm3"]
    for name in names:
        site.call("POST", f"/targets/{name}/sync")
    while not all(site.call("GET", f"/targets/{name}").json()["readiness"] for name in names):
        assert time.monotonic() < deadline, "the first syncs do not end"
        time.sleep(0.1)


@pytest.fixture(scope="module")  # not longer: its event loop runs in the tests' own thread
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "no chromium: script/setup --dev installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Whatever a page's script or its policy complains about fails the test."""
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda line: trouble.append(line.text) if "Content Security" in line.text else None)
    yield page
    assert not trouble


def log_in(page: Page, site: Site, name: str = "anna") -> None:
    page.goto(f"{site.url}/login")
    page.fill("[name=name]", name)
    page.fill("[name=password]", PASSWORD)
    page.click("text=Log in")
    page.wait_for_selector("h1:has-text('Estate')")
