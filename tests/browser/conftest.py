"""The web app in a real browser, over a real service with a real bundle."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fixtures.process import Server, free_port
from tasador.monitoring.reference import build_reference
from tasador.registry.writer import write_bundle
from tasador.serving.http.auth import new_key

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class App:
    """A running web app."""

    url: str
    process: subprocess.Popen[str]

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_app(api: str) -> App:
    """Start `tasador ui` over the service at `api` and wait until it answers."""
    port = free_port()
    command = [sys.executable, "-m", "tasador.cli.app", "ui", "--api", api, "--port", str(port)]
    process = subprocess.Popen(
        command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    app = App(f"http://127.0.0.1:{port}", process)
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{app.url}/_stcore/health", timeout=5) as answer,
        ):
            if answer.status == 200:
                return app
        time.sleep(0.1)
    app.end()
    pytest.fail("the web app did not start")


@pytest.fixture(scope="session")
def admin_key() -> tuple[str, str]:
    """What an administrator sends, and what the service is told."""
    text, key = new_key("tests", "admin")
    return text, key.line()


@pytest.fixture(scope="session")
def watched_bundle(bundle_parts, house_rows, tmp_path_factory) -> Path:
    """A bundle that ships what monitoring compares with."""
    X, price = house_rows
    folder = tmp_path_factory.mktemp("watched") / "houses"
    first = write_bundle(folder, bundle_parts)
    reference = build_reference(
        first.contract.features, X, prediction=first.predict(X), actual=price, log=True
    )
    write_bundle(folder, replace(bundle_parts, reference=reference.state()))
    return folder


@pytest.fixture(scope="session")
def service(watched_bundle: Path, tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("service"), watched_bundle, free_port())
    server.start()
    server.wait()
    yield server
    server.end()


@pytest.fixture(scope="session")
def app(service: Server) -> Iterator[App]:
    found = start_app(service.url)
    yield found
    found.end()


@pytest.fixture(scope="module")  # its event loop runs on: no other test of the process has one
def browser():
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def visit(browser, app: App) -> Iterator[Callable[..., object]]:
    """Open a page of the app: ``visit("batch", lang="es", width=390)``.

    The test fails when the page asks any other host for anything.
    """
    elsewhere: list[str] = []
    with contextlib.ExitStack() as stack:

        def open_page(path: str = "", lang: str = "en", width: int = 1280, base: str = app.url):
            page = browser.new_page(
                viewport={"width": width, "height": 900}, locale="en-US", reduced_motion="reduce"
            )
            stack.callback(page.close)
            page.set_default_timeout(90_000)  # two workers train models beside it
            page.on(
                "request",
                lambda request: (
                    None
                    if request.url.startswith((base, "data:", "blob:"))
                    else elsewhere.append(request.url)
                ),
            )
            page.goto(f"{base}/{path}?lang={lang}")
            page.wait_for_selector("h1, [data-testid=stAlert]")
            return page

        yield open_page
    assert elsewhere == []
