"""Opens every page of the built site in Chromium and says what it asks for, and how heavy it is.

    python docs/_weights.py [FOLDER]

prints a table of pages, requests and kilobytes for ``docs/_build/html``, and fails where a page asks another host,
complains in its console, or is wider than a phone. It needs Playwright and Chromium (``make browser``).
"""

import contextlib
import functools
import http.server
import os
import pathlib
import shutil
import sys
import threading
from typing import NamedTuple

BUILT = pathlib.Path(__file__).parent / "_build" / "html"
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Visit(NamedTuple):
    """What a page asked for, and its width over that of a phone's screen."""

    page: str
    requests: list[str]
    bytes: int
    elsewhere: list[str]
    complaints: list[str]
    overhang: int


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    """The address of a folder on a server of its own."""
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def pages(folder=BUILT):
    """The site's pages, as paths from its folder; what is vendored is none."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*.html")))
    return [path.as_posix() for path in found if path.parts[0] not in ("vendor", "_static", "_modules")]


def visits(folder=BUILT):
    """A :class:`Visit` of each page, with an empty cache."""
    from playwright.sync_api import sync_playwright

    with served(folder) as site, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in pages(folder):
            yield _visit(browser, site, name)
        browser.close()


def _visit(browser, site, name):
    context = browser.new_context(viewport=PHONE, is_mobile=True)
    page, answers, elsewhere, complaints = context.new_page(), [], [], []
    page.on("response", lambda answer: answers.append(answer))
    page.on("request", lambda asked: elsewhere.append(asked.url) if not _own(asked.url, site) else None)
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(site + name)
    if page.locator("[loading=lazy]").count():  # what is loaded when one comes by belongs to the page too
        page.evaluate("() => document.querySelectorAll('[loading=lazy]').forEach(each => each.loading = 'eager')")
        page.wait_for_load_state("networkidle")
    overhang = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    own = [answer for answer in answers if answer.url.startswith(site)]
    complaints += [f"{answer.status} {answer.url}" for answer in own if answer.status >= 400]
    size = sum(int(answer.headers.get("content-length", 0)) for answer in own)
    context.close()
    return Visit(name, [answer.url.removeprefix(site) for answer in own], size, elsewhere, complaints, overhang)


def _own(url, site):
    return url.startswith((site, "data:", "blob:"))


def main(folder=BUILT):
    """Print the table; 1 if something is wrong with a page."""
    wrong = []
    print("| page | requests | kB |\n|---|---|---|")
    for visit in visits(pathlib.Path(folder)):
        print(f"| {visit.page} | {len(visit.requests)} | {visit.bytes / 1000:,.0f} |", flush=True)
        wrong += [f"{visit.page} asks {url}" for url in visit.elsewhere]
        wrong += [f"{visit.page} complains: {text}" for text in visit.complaints]
        wrong += [f"{visit.page} is {visit.overhang} px wider than a phone"] if visit.overhang > 0 else []
    print(
        "\n".join(["", *wrong]) if wrong else "\nno request to another host, no complaint, no page wider than a phone"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
