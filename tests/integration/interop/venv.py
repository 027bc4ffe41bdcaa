"""A venv with Durus 4.3, made once and used from then on."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENT = "Durus==4.3"
_READY = "ready"
_UNREACHABLE = ("Could not find a version", "No matching distribution", "NewConnectionError", "ConnectionError")


class NotInstallable(Exception):
    """Durus 4.3 can't be had on this machine, and why."""


def python_of_4_3(folder: Path) -> Path:
    """Return the Python of the venv in `folder`, which is created if it does not exist.

    NotInstallable if there is no package index or no compiler. Any other failure is a failure of these tests.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes run tests
        if not (folder / _READY).exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder)
            (folder / _READY).touch()
    return folder / "bin" / "python"


def _make(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", REQUIREMENT]
    installing = subprocess.run(command, capture_output=True, text=True, check=False)
    if installing.returncode == 0:
        return
    said = installing.stdout + installing.stderr
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        raise NotInstallable(f"{REQUIREMENT} needs a C compiler, and there is none here")
    if any(word in said for word in _UNREACHABLE):
        raise NotInstallable(f"{REQUIREMENT} can't be had: no package index is reachable from here")
    raise AssertionError(f"{REQUIREMENT} can't be installed: {said}")
