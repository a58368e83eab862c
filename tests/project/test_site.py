"""The site is built strictly, its links lead somewhere, and it can be read on any screen.

``IOWQ_SCREENSHOTS=FOLDER`` keeps what the browser shows, ``IOWQ_SCHEME=dark`` in dark colours.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from lxml import html
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[2]
#: Without a name of their own on the site.
MADE_BY_SPHINX = {"genindex", "search", "py-modindex"}
SCHEME = os.environ.get("IOWQ_SCHEME", "light")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def build(folder: Path) -> Path:
    """Makes the site: what Sphinx warns of is an error."""
    site = folder / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q"]
    result = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(ROOT / "docs"), str(site)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return site


site = pytest.mark.ahead(by=build, parametrized=False)


def _pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


@site
def test_every_page_is_on_the_site(ahead: Path) -> None:
    pages = {str(path.relative_to(ahead).with_suffix("")) for path in _pages(ahead)}
    sources = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".rst")]
    assert pages - MADE_BY_SPHINX == {
        str(path.relative_to(ROOT / "docs").with_suffix("")) for path in sources
    }


@functools.cache
def _ids(page: Path) -> frozenset[str]:
    return frozenset(html.parse(page).xpath("//@id"))


def _is_dead(page: Path, link: str) -> bool:
    path, fragment = urldefrag(link)
    target = (page.parent / unquote(urlsplit(path).path)).resolve() if path else page
    if not target.exists():
        return True
    return bool(fragment) and target.suffix == ".html" and unquote(fragment) not in _ids(target)


@site
def test_links_lead_somewhere(ahead: Path) -> None:
    dead, count = [], 0
    for page in _pages(ahead):
        for element, attribute, link, _ in html.parse(page).getroot().iterlinks():
            if urlsplit(link).scheme or element.get("href") == "#":
                continue
            count += 1
            if _is_dead(page, link):
                dead.append(f"{page.relative_to(ahead)}: {attribute}={link}")
    assert not dead
    assert count > 1000


@site
def test_nothing_is_fetched_from_elsewhere(ahead: Path) -> None:
    """By browsers: links are followed by people only."""
    for page in _pages(ahead):
        sources = html.parse(page).xpath(
            "//script/@src | //img/@src | //link[@rel!='canonical']/@href"
        )
        assert not [source for source in sources if urlsplit(source).netloc]


def test_links_of_other_pages_lead_somewhere() -> None:
    """Those of the repository that are not on the site."""
    pages = [*ROOT.glob("*.md"), ROOT / "tests/README.md"]
    assert len(pages) >= 4
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert urlsplit(link).scheme or (page.parent / link).exists(), f"{page}: {link}"


def _public_names() -> Iterator[str]:
    for path in sorted((ROOT / "src/iowq").glob("*.py")):
        if path.stem == "__init__":
            module = "iowq"
        elif path.stem.startswith("_"):
            continue
        else:
            module = f"iowq.{path.stem}"
        for name in importlib.import_module(module).__all__:
            yield f"{module}.{name}"


@site
def test_every_public_name_is_in_the_reference(ahead: Path) -> None:
    ids = {name for page in (ahead / "reference").glob("*.html") for name in _ids(page)}
    names = set(_public_names())
    assert len(names) > 60
    assert not names - ids


@site
def test_the_reference_says_nothing_of_sphinx_own(ahead: Path) -> None:
    """What it makes up, where it finds no docstring, or can't read a signature."""
    for page in (ahead / "reference").glob("*.html"):
        text = html.parse(page).xpath("string(//article)")
        assert not re.findall(r"Alias for field|~[\w.]+|object=''", text), page


# ---- in a browser


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def _browser(width: int, height: int) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, with a screen of that size."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    if SCHEME == "dark":
        options.add_argument("--blink-settings=preferredColorScheme=0")
    screen = {"width": width, "height": height, "pixelRatio": 1, "mobile": width < 600}
    options.add_experimental_option("mobileEmulation", {"deviceMetrics": screen})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver")) as driver:
        yield driver


#: What is wider than the screen, and in nothing that can be scrolled by itself.
TOO_WIDE = """
    const width = document.documentElement.clientWidth;
    const scrolls = (element) => {
        for (; element && element !== document.body; element = element.parentElement)
            if (["auto", "scroll"].includes(getComputedStyle(element).overflowX)) return true;
        return false;
    };
    const wide = [...document.querySelectorAll("article *, .mobile-header *")].filter(
        (element) => element.getBoundingClientRect().right > width + 1 && !scrolls(element)
    ).map((element) => element.outerHTML.slice(0, 120));
    if (document.documentElement.scrollWidth > width) wide.push("the document");
    if (!document.querySelector("article")) wide.push("no page");
    return wide;
"""


def _keep(driver: webdriver.Chrome, name: str) -> None:
    if folder := os.environ.get("IOWQ_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        assert driver.save_screenshot(str(Path(folder, name.replace("/", "-"))))


@site
@pytest.mark.parametrize("size", SIZES)
def test_pages_fit_the_screen(ahead: Path, size: str) -> None:
    problems: dict[str, object] = {}
    with _served(ahead) as address, _browser(*SIZES[size]) as driver:
        for page in _pages(ahead):
            name = str(page.relative_to(ahead))
            driver.get(f"{address}/{name}")
            wide = driver.execute_script(TOO_WIDE)
            log = driver.get_log("browser")  # type: ignore[no-untyped-call]
            said = [entry["message"] for entry in log]
            if wide or said:
                problems[name] = wide, said
            _keep(driver, f"{size}-{name}.png")
    assert not problems


@site
def test_what_is_searched_for_is_found(ahead: Path) -> None:
    with _served(ahead) as address, _browser(*SIZES["desktop"]) as driver:
        driver.get(f"{address}/search.html?q=safepoint")
        found = WebDriverWait(driver, 30).until(
            lambda driver: driver.find_elements("css selector", "ul.search li a")
        )
        assert any("safepoints.html" in str(link.get_attribute("href")) for link in found)
