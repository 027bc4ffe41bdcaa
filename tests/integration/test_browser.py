"""`durus browse` as a process, and its pages in Chromium: by keyboard, on a phone, and with a hostile database."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="needs the extra durus[browse]")
pytest.importorskip("starlette", reason="needs the extra durus[browse]")
pytest.importorskip("uvicorn", reason="needs the extra durus[browse]")

from tests import screenshots
from tests.screenshots import SECONDS, browse, make_shop, running_browser


def fetch(address: str, host: str | None = None) -> tuple[int, str]:
    """Return the status and the text of an answer."""
    request = urllib.request.Request(address, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    path = tmp_path_factory.mktemp("shop") / "shop.durus"
    return path, make_shop(path)


@pytest.fixture(scope="module")
def base(shop: tuple[Path, int]) -> Iterator[str]:
    with browse(shop[0]) as address:
        yield address


# The process


@pytest.mark.spec("CMD-50", "CMD-51")
def test_the_command_serves_until_it_is_interrupted(shop: tuple[Path, int]) -> None:
    before = shop[0].read_bytes()
    with browse(shop[0]) as first, browse(shop[0]) as second:
        assert fetch(f"{first}/")[0] == 200
        port = int(first.split(":")[2].partition("/")[0])
        token = first.rpartition("/")[2]
        assert token != second.rpartition("/")[2]
        assert fetch(f"http://127.0.0.1:{port}/")[0] == 404
        assert fetch(f"http://localhost:{port}/{token}/")[0] == 200
        assert fetch(f"{first}/", host="rebound.example")[0] == 403
        assert "server" not in urllib.request.urlopen(f"{first}/style.css", timeout=SECONDS).headers
    assert shop[0].read_bytes() == before
    assert [path.name for path in shop[0].parent.iterdir()] == ["shop.durus"]


@pytest.mark.spec("CMD-51")
def test_only_this_machine_can_connect(base: str) -> None:
    port = int(base.split(":")[2].partition("/")[0])
    if not os.path.exists("/proc/net/tcp"):
        pytest.skip("only Linux tells on which addresses a port is open")
    listening = re.findall(rf"^ *\d+: ([0-9A-F]+):{port:04X} \S+ 0A ", Path("/proc/net/tcp").read_text(), re.MULTILINE)
    assert [socket.inet_ntoa(struct.pack("=I", int(each, 16))) for each in listening] == ["127.0.0.1"]
    assert not re.search(rf":{port:04X} \S+ 0A ", Path("/proc/net/tcp6").read_text())


@pytest.mark.spec("CMD-2", "CMD-50")
def test_a_port_that_is_taken_is_told(shop: tuple[Path, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "durus", "browse", str(shop[0]), "--port", port]
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"durus: 127.0.0.1:{port} can't be listened on: Address already in use\n"


@pytest.mark.spec("CMD-50")
def test_a_supervisor_ends_it_by_sigterm(shop: tuple[Path, int]) -> None:
    command = [sys.executable, "-m", "durus", "browse", str(shop[0])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "can be browsed at" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.communicate()


# In Chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api", reason="needs playwright, as tox -e browser has it")
    if screenshots.chromium() is None:
        pytest.skip("needs Chromium")
    with running_browser() as started:
        yield started


WIDE = """() => [...document.querySelectorAll('body *')].filter(each => {
  if (each.getBoundingClientRect().right <= innerWidth + 1) return false;
  return !each.closest('.scroll') && !each.classList.contains('skip');
}).map(each => each.outerHTML.slice(0, 80))"""
"""What sticks out of the window, and can't be scrolled to."""

LOW_CONTRAST = """() => {
  const linear = x => x <= 10 ? x / 3294.6 : ((x / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(linear)
    .reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const found = [];
  for (const each of document.querySelectorAll('body *')) {
    if (![...each.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    const style = getComputedStyle(each), inside = each.closest('svg');
    let behind = each;
    while (behind && numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const ground = behind ? numbers(getComputedStyle(behind).backgroundColor) : [255, 255, 255];
    const [a, b] = [light(numbers(inside ? style.fill : style.color)), light(ground)].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) found.push(each.outerHTML.slice(0, 80));
  }
  return found;
}"""
"""Texts whose contrast is less than WCAG's AA."""

UNNAMED = """() => [...document.querySelectorAll('a, button, input, select, [role=region], nav, form')].filter(each =>
  !(each.getAttribute('aria-label') || each.textContent.trim() || (each.labels && each.labels.length)))
  .map(each => each.outerHTML)"""
"""What can be used and has no name."""


ADD_SCRIPT = """() => {
  const added = document.createElement('script');
  added.text = 'window.ran = 1';
  document.body.append(added);
}"""


def paths(order: int) -> list[str]:
    return [
        "/",
        "/classes",
        "/class/0",
        "/object/0",
        f"/object/{order}",
        f"/object/{order}/history",
        f"/object/{order}/referrers",
        "/object/2/items",
        "/object/0/value?at=0",
        "/search?attribute=state&text=sent",
        "/object/99999",
    ]


@pytest.mark.spec("CMD-50")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_pages_fit_and_can_be_read(width: int, scheme: str, browser: Any, base: str, shop: tuple[Path, int]) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("request", lambda request: None if request.url.startswith(base) else told.append(request.url))
    for path in paths(shop[1]):
        page.goto(base + path)
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width], path
        assert page.evaluate(WIDE) == [], path
        assert page.evaluate(LOW_CONTRAST) == [], path
        assert page.evaluate(UNNAMED) == [], path
        assert [page.locator(each).count() for each in ("main", "h1", "body > header", "html[lang]")] == [1, 1, 1, 1]
    page.close()
    assert [each for each in told if "404" not in each] == []


@pytest.mark.spec("CMD-50")
def test_everything_can_be_done_with_the_keyboard(browser: Any, base: str, shop: tuple[Path, int]) -> None:
    page = browser.new_page(viewport={"width": 1000, "height": 800})

    def focused() -> str:
        text: str = page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id")
        return text.strip()

    def tab_to(name: str) -> None:
        for _ in range(200):
            page.keyboard.press("Tab")
            if focused() == name:
                style = "getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(style) != "none", f"{name} does not show that it has the focus"
                return
        raise AssertionError(f"{name} can't be reached by Tab")

    page.goto(f"{base}/")
    page.keyboard.press("Tab")
    assert focused() == "Skip to the content"
    page.keyboard.press("Enter")
    tab_to("shop.Order")
    page.keyboard.press("Enter")
    page.wait_for_url("**/class/*")
    tab_to("oid")
    page.keyboard.type(str(shop[1]))
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/object/{shop[1]}")
    tab_to("History")
    page.keyboard.press("Enter")
    page.wait_for_url("**/history")
    page.go_back()
    customer = page.locator(".graph a").last.text_content()
    tab_to(customer)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(rf"/object/{customer.split()[-1]}$"))
    tab_to("Search")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search")
    tab_to("attribute")
    page.keyboard.type("name")
    tab_to("Search")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?**attribute=name**")
    assert "found on this page" in page.inner_text("main")
    reached = set()
    count = page.locator("a, button, input, select, [tabindex='0']").count()
    page.goto(page.url)
    for _ in range(count):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(reached) == count
    page.close()


@pytest.mark.spec("CMD-52", "CMD-53")
def test_a_hostile_database_runs_nothing(browser: Any, tmp_path: Path) -> None:
    from tests.hostile import write_hostile

    name = "<img src=x onerror=alert(1)>.durus"
    write_hostile(tmp_path / name)
    with browse(tmp_path / name) as base:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        troubles: list[str] = []
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(base) else troubles.append(request.url))
        page.goto(f"{base}/")
        page.wait_for_selector(".progress", state="detached", timeout=SECONDS * 1000)
        for path in (
            "/",
            "/classes",
            "/class/1",
            *(f"/object/{number}" for number in range(11)),
            "/search?text=script",
        ):
            page.goto(base + path)
            assert page.locator("script, img, iframe, object, embed, b, style").count() == 0, path
            assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390], path
            assert page.evaluate(WIDE) == [], path
        assert troubles == []
        page.evaluate(ADD_SCRIPT)
        assert page.evaluate("window.ran") is None
        assert any("Content Security Policy" in each for each in troubles)
        page.close()


@pytest.mark.spec("CMD-50")
def test_the_pictures_of_the_documents_are_of_these_pages(
    browser: Any, base: str, shop: tuple[Path, int], tmp_path: Path
) -> None:
    screenshots.take(browser, base, shop[1], tmp_path)
    taken = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in screenshots.FOLDER.iterdir()}
    assert taken.keys() == kept.keys(), "run `python -m tests.screenshots`"
    for name, data in kept.items():
        assert len(data) < screenshots.MAX_SIZE
        assert data[:24] == taken[name][:24], f"{name} has another size; run `python -m tests.screenshots`"
