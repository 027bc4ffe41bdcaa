"""The documentation builds without a warning, and the site has what readers and links expect of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.spec import documents, statements

pytest.importorskip("furo", reason="needs the extra durus[docs]")
pytest.importorskip("myst_parser", reason="needs the extra durus[docs]")
pytest.importorskip("mmdr", reason="needs the extra durus[docs]")

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "spec").glob("*.md")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", ".", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (result.stderr, result.returncode) == ("", 0)
    return folder


def html(site: Path, page: Path) -> str:
    return (site / page.relative_to(ROOT)).with_suffix(".html").read_text(encoding="utf-8")


def test_every_statement_has_an_anchor(site: Path) -> None:
    for document in documents():
        text = html(site, ROOT / "spec" / document.name)
        for statement in statements(document):
            assert f'id="{statement.id}"' in text, statement.place


def test_an_id_in_a_docstring_leads_to_its_statement(site: Path) -> None:
    text = html(site, ROOT / "docs" / "reference" / "database.md")
    assert re.search(r'href="[./]*spec/database\.html#DB-10"[^>]*><span[^>]*>\[DB-10\]<', text)


def test_the_list_of_pages_is_complete(site: Path) -> None:
    listed = (site / "llms.txt").read_text(encoding="utf-8")
    for page in PAGES:
        assert f"({page.relative_to(ROOT).with_suffix('.html')})" in listed


def test_the_root_leads_to_the_first_page(site: Path) -> None:
    assert "url=docs/index.html" in (site / "index.html").read_text(encoding="utf-8")


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in PAGES:
        loaded = re.findall(r'<(?:script|img|link|iframe)\b[^>]*(?:src|href)="([^"]*)"', html(site, page))
        assert loaded
        assert [each for each in loaded if re.match(r"https?:|//", each)] == []


def test_the_file_of_a_block_is_named(site: Path) -> None:
    page = (site / "docs" / "tutorial.html").read_text(encoding="utf-8")
    assert re.search(r'<span class="caption-text">test_store.py</span>', page)
    assert "<!-- file:" not in page


def test_diagrams_are_drawn(site: Path) -> None:
    (name,) = re.findall(r'<img[^>]*src="([^"]*\.svg)"', html(site, ROOT / "docs" / "architecture.md"))
    assert "<svg" in (site / "docs" / name).read_text(encoding="utf-8")


def test_the_search_finds_words_without_a_server(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert '"prepack"' in index or "prepack:" in index
