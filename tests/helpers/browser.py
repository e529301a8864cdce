"""Pages in a real Chromium: what it complains about, what it asks for, what axe finds."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NARROW, WIDE = 360, 1440


@contextmanager
def opened(
    page: Path, *, width: int = WIDE, scheme: str = "light", link: str = ""
) -> Generator[Any]:
    """Open a page; fails at its end on a console message or on a request to any host."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium on this machine (on Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab = context.new_page()
        said: list[str] = []
        requested: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: requested.append(request.url))
        tab.goto(page.absolute().as_uri() + link)
        try:
            yield tab
        finally:
            browser.close()
        assert said == []
        assert [url for url in requested if not url.startswith(("file:", "data:"))] == []


def serious_violations(tab: Any) -> list[str]:
    """Return what axe finds serious or critical, with the first element of each."""
    import axe_playwright_python

    # Run by the debugger: the page's own policy lets no script in.
    script = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")
    tab.evaluate(script)
    found = tab.evaluate("axe.run()")
    return [
        f"{rule['id']}: {rule['nodes'][0]['html'][:200]}"
        for rule in found["violations"]
        if rule["impact"] in {"serious", "critical"}
    ]


def scrolls_sideways(tab: Any) -> bool:
    """Return whether the page is wider than its window."""
    return tab.evaluate("document.documentElement.scrollWidth > innerWidth")
