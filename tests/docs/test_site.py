"""`make docs`: the pages as a site that needs no network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LINKS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "prefetch", "manifest"}


class Loads(HTMLParser):
    """What a browser fetches by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag loads."""
        given = dict(attrs)
        if tag == "link" and LINKS & set((given.get("rel") or "").split()):
            self.addresses.append(given.get("href") or "")
        elif address := given.get(LOADS.get(tag, "")):
            self.addresses.append(address)


def pages_of(nav: Any) -> Iterator[str]:
    """Every page of the navigation."""
    for entry in nav:
        for what in entry.values():
            yield from [what] if isinstance(what, str) else pages_of(what)


def test_every_page_is_in_the_navigation() -> None:
    """The site's menu names each page once; the single decisions are listed by their index."""
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]

    assert sorted(pages_of(nav)) == sorted(
        page for page in pages if not page.startswith("decisions/") or page.endswith("index.md")
    )


@pytest.mark.skipif(find_spec("zensical") is None, reason="the extra `docs` is not installed")
def test_the_site_is_built_and_loads_nothing_foreign(tmp_path: Path) -> None:
    """The strict build finds nothing wrong; each script, style and picture lies in the site, no style fetches any."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    site = tmp_path / "build/docs"
    built = sorted(site.rglob("*.html"))
    assert len(built) >= len(list((ROOT / "docs").rglob("*.md")))
    for page in built:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<p>\d+\. |<p>[*-] |```", text), f"{page.name}: Markdown that the generator did not take"
        loads = Loads()
        loads.feed(text)
        assert loads.addresses
        for address in loads.addresses:
            assert not re.match(r"[a-z]+:|//", address), (page.name, address)
            assert address.startswith("/") or (page.parent / address.partition("?")[0]).is_file(), (page.name, address)
    for style in site.rglob("*.css"):
        assert not re.findall(r"@import|url\(['\"]?(?:https?:)?//", style.read_text(encoding="utf-8"))
