"""The site that ``make site`` builds: all pages are there, links lead somewhere, and no page needs a network."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest

import ptlib

pytest.importorskip("myst_nb", reason="the packages of the extra 'site' are not installed")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """What a page refers to, and the places in it that others refer to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.add(tag)
        self.ids.add(given.get("id") or "")
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given)
        loads = given.get("src") or (given.get("href") if tag == "link" else None)
        if loads:
            self.loaded.append(loads)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    """{path in the site: page}. A warning, such as a link to a page that is not there, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-q", "-W", "--keep-going", "-c", str(ROOT / "notebooks/site"), "-d", str(folder / "doctrees"),
               str(ROOT), str(folder / "html")]
    done = subprocess.run([sys.executable, "-m", "sphinx", *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {path.relative_to(folder / "html"): Page(path) for path in (folder / "html").rglob("*.html")
            if "_static" not in path.parts}


def test_every_notebook_and_page_is_there(site):
    notebooks = [path.relative_to(ROOT).with_suffix(".html") for path in (ROOT / "notebooks").rglob("*.ipynb")
                 if ".ipynb_checkpoints" not in path.parts]
    pages = [Path(name) for name in ("README.html", "CONTRIBUTING.html", "CHANGELOG.html", "notebooks/glossary.html")]
    pages += [path.relative_to(ROOT).with_suffix(".html") for path in (ROOT / "notebooks" / "site").glob("*.md")]
    assert not {*notebooks, *pages} - site.keys()


def test_every_public_name_is_described(site):
    described = site[Path("notebooks/site/api.html")].ids
    functions = {name for name in ptlib.__all__ if callable(getattr(ptlib, name))}
    assert not {name for name in functions if not any(one.split(".")[-1] == name for one in described)}


def test_links_lead_somewhere(site, tmp_path):
    for path, page in site.items():
        for link in page.links:
            address, place = urldefrag(link)
            if urlparse(address).scheme or address.startswith("_downloads") or "/_downloads/" in address:
                continue
            if path.stem == "11_report" and re.match("[0-9a-f]{16}/", address):
                continue  # a run's own page, which lies beside a sweep's report, but not on the site
            target = Path(*_parts(path.parent / unquote(address))) if address else path
            if target.suffix == ".html":
                assert target in site, f"{path}: {link}"
                assert not place or unquote(place) in site[target].ids, f"{path}: {link}"


def test_nothing_is_loaded_from_a_network(site):
    for path, page in site.items():
        assert not [source for source in page.loaded if urlparse(source).scheme not in ("", "data")], path


def test_mathematics_is_drawn_by_the_browser(site):
    assert "math" in site[Path("notebooks/03_search.html")].tags


def test_images_have_a_text(site):
    for path, page in site.items():
        assert all(image.get("alt") is not None for image in page.images), path


def _parts(path: Path) -> list[str]:
    """The parts of a path without ``..``."""
    parts: list[str] = []
    for part in path.parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return parts
