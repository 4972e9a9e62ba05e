"""A report in headless Chromium, for the tests of its page."""

import os
import shutil

import pytest

from tests.evaluation.report import browsed as pages

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "tests of report.html need Chromium: apt-get install chromium, or name one in UNDERTOW_CHROMIUM"
QUIET = ["gpu", "quic", "background-networking", "component-update", "sync"]
SWITCHES = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
PATIENCE = 60_000  # milliseconds, on a machine that does other things too


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """The file of a report with everything that a page has to bear."""
    with pytest.warns(UserWarning, match="no pictures of"):
        return pages.write(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def known():
    """What is on it, by pandas."""
    return pages.known()


@pytest.fixture(scope="module")
def chromium():
    """A browser; closed after each module, since its event loop would be in the way of other tests."""
    path = os.environ.get("UNDERTOW_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI", "").lower() in {"true", "1"} else pytest.skip)(MISSING)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, report):
    """Opens the report, or another file, at a fragment; fails afterwards where the page met an error or asked for anything but itself."""
    contexts, problems = [], []

    def opened(fragment="", path=report, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        address = path.as_uri()
        page.on("console", lambda message: problems.append(f"console: {message.text}") if message.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: None if _is_own(asked.url, address) else problems.append(f"request: {asked.url}"))
        page.goto(address + fragment)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def _is_own(url, address):
    return url.partition("#")[0] in {address, "about:blank"} or url.startswith("data:")
