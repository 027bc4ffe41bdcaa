"""These tests need Durus 4.3 as well as this one: `tox -e interop` runs them, and names a folder for its venv."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.interop.side import Sides, running
from tests.integration.interop.venv import NotInstallable, python_of_4_3

FOLDER = os.environ.get("DURUS_INTEROP_FOLDER")
"""The folder of the venv of Durus 4.3, which is created if it does not exist."""

collect_ignore_glob = [] if FOLDER else ["test_*.py"]


def pytest_report_header() -> str | None:
    return None if FOLDER else "interop with Durus 4.3: left out, `tox -e interop` runs it"


@pytest.fixture(scope="session")
def python_4_3() -> Path:
    """The Python of a venv with Durus 4.3."""
    assert FOLDER is not None
    try:
        return python_of_4_3(Path(FOLDER).resolve())
    except NotInstallable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sides(python_4_3: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """One process with this Durus, and one with 4.3."""
    folder = tmp_path_factory.mktemp("sides")
    with running("this", Path(sys.executable), folder) as new, running("4.3", python_4_3, folder) as old:
        assert old.ask("place_of_durus") != new.ask("place_of_durus")
        yield Sides(new, old)
