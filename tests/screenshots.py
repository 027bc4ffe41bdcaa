"""The pictures of docs/howto/browsing.md, taken in a real browser. `python -m tests.screenshots` takes them again."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from durus.btree import BTree
from durus.connection import Connection
from durus.file_storage import FileStorage
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "howto" / "images"
MAX_SIZE = 100_000
"""The most bytes of one picture."""
SECONDS = 60
NAMES = ["Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gil", "Hana", "Ida", "Jon"]
WARES = ["tea", "cup", "kettle", "spoon", "honey"]


class Picture(NamedTuple):
    """A page, and how it is shown."""

    name: str
    path: str
    width: int
    height: int
    scheme: str


PICTURES = [
    Picture("overview", "/", 900, 760, "light"),
    Picture("object", "/object/ORDER", 900, 830, "light"),
    Picture("phone", "/object/ORDER", 390, 780, "dark"),
]


def chromium() -> str | None:
    """Return the path of Chromium, or of Chrome; None if neither is here."""
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path is not None), None)


def make_shop(path: Path) -> int:
    """Make a database of customers and orders; return the oid of an order."""

    class Customer(Persistent):
        def __init__(self, name: str) -> None:
            self.name = name
            self.orders: PersistentList[Any] = PersistentList()

    class Order(Persistent):
        def __init__(self, number: int, customer: Customer, made: datetime, lines: list[tuple[str, int]]) -> None:
            self.number = number
            self.customer = customer
            self.made = made
            self.lines = lines
            self.state = "new"

    module = types.ModuleType("shop")
    for cls in (Customer, Order):
        cls.__module__, cls.__qualname__ = "shop", cls.__name__
        setattr(module, cls.__name__, cls)
    sys.modules["shop"] = module
    chance = random.Random(7)
    now = datetime(2026, 3, 2, 8, tzinfo=UTC)
    storage = FileStorage(path, clock=lambda: now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    try:
        with Connection(storage) as connection:
            root: Any = connection.get_root()
            root["customers"], root["orders"] = BTree(), BTree()
            root["settings"] = PersistentDict(currency="EUR", tax=0.19)
            connection.commit()
            for number in range(1, 401):
                now += timedelta(hours=chance.randint(1, 12))
                name = f"{chance.choice(NAMES)} {chance.choice('ABCDEFGH')}."
                customer = root["customers"].setdefault(name, Customer(name))
                lines = [(ware, chance.randint(1, 5)) for ware in chance.sample(WARES, chance.randint(1, 3))]
                order = root["orders"][number] = Order(number, customer, now, lines)
                customer.orders.append(order)
                connection.commit()
                root["orders"][chance.randint(max(1, number - 30), number)].state = chance.choice(["paid", "sent"])
                connection.commit()
            found = root["orders"][211]
            found.state = "sent"
            connection.commit()
            return int.from_bytes(found._p_oid, "big")
    finally:
        storage.close()
        del sys.modules["shop"]


@contextmanager
def browse(name: Path, *options: str) -> Iterator[str]:
    """Run `durus browse`; yield the address of its pages. It must end with status 0."""
    command = [sys.executable, "-m", "durus", "browse", name.name, *options]
    process = subprocess.Popen(command, cwd=name.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r" at (http://127\.0\.0\.1:\d+/[\w-]+)/ until Ctrl-C$", line)
        assert address, line + process.communicate(timeout=SECONDS)[1]
        yield address[1]
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=SECONDS)
        assert (rest, told, process.returncode) == ("", "", 0)
    finally:
        process.kill()
        process.communicate()


def take(browser: Any, base: str, order: int, folder: Path) -> None:
    """Take all pictures of a shop in a browser of playwright."""
    for each in PICTURES:
        page = browser.new_page(viewport={"width": each.width, "height": each.height}, color_scheme=each.scheme)
        page.goto(base + each.path.replace("ORDER", str(order)))
        page.wait_for_selector(".graph" if "object" in each.path else "#growth")
        page.screenshot(path=folder / f"browse-{each.name}.png")
        page.close()


@contextmanager
def running_browser() -> Iterator[Any]:
    """Start Chromium by playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            env={**os.environ, "TMPDIR": "/tmp"},  # Chromium's socket there has a path of limited length
        )
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        order = make_shop(Path(name) / "shop.durus")
        with browse(Path(name) / "shop.durus") as base, running_browser() as browser:
            FOLDER.mkdir(exist_ok=True)
            take(browser, base, order, FOLDER)
