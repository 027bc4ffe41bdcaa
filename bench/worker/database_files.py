"""Files of databases, each of which may be a folder, or one file with others of the same beginning beside it."""

import os
import shutil
from pathlib import Path


def copy(path: str, to: str) -> None:
    """Copy a database."""
    if os.path.isdir(path):
        shutil.copytree(path, to)
    else:
        shutil.copy(path, to)


def remove(path: str) -> None:
    """Remove a database, with the files that were put beside it."""
    for found in Path(path).parent.glob(f"{Path(path).name}*"):
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink()


def size_of(path: str) -> int:
    """Return the bytes of a database, without files beside it."""
    files = Path(path).iterdir() if os.path.isdir(path) else [Path(path)]
    return sum(found.stat().st_size for found in files)
