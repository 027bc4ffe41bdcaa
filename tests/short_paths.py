"""Folders with short paths, for Unix sockets: the whole path of one has about 100 bytes, and TMPDIR may be longer."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MAX_TMPDIR = 40
"""How many bytes TMPDIR may have, so that below it there is room for a folder and the names of a test."""


@contextlib.contextmanager
def short_folder(for_other_users: bool = False) -> Iterator[Path]:
    """Make a folder for the block; with `for_other_users` it is where they can come to, as perhaps not to TMPDIR."""
    usual = tempfile.gettempdir()
    is_elsewhere = for_other_users or len(os.fsencode(usual)) > _MAX_TMPDIR
    with tempfile.TemporaryDirectory(prefix="durus-", dir="/var/tmp" if is_elsewhere else usual) as name:
        yield Path(name)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for a test that makes Unix sockets; the path of `tmp_path` may be too long for them."""
    with short_folder() as folder:
        yield folder
