"""Finds the target that a name stands for: a folder, or a prefix in an object store. Statement BACKUP-50."""

import os
import re

from durus.backups.folder import FolderTarget
from durus.backups.objects import ObjectTarget
from durus.backups.target import Target
from durus.error import ArgumentError, BackupError
from durus.files.file import FileSystem, OperatingSystem, Path, path_text

_SCHEME = re.compile(r"(s3|gs|az)://", re.IGNORECASE)


def is_in_object_store(text: str) -> bool:
    """Return whether the name of a target is an address in an object store."""
    return _SCHEME.match(text) is not None


def open_target(target: Path | Target, file_system: FileSystem | None = None) -> Target:
    """Return the target with this name, or the target itself.

    Args:
        target: A folder, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`.
        file_system: That of the folder; None stands for the operating system's.

    Raises:
        ArgumentError: It is not the name of a folder, or not an address of an object store.
        BackupError: It is such an address, and the extra `durus[cloud]` is not installed.
    """
    if not isinstance(target, str | bytes | os.PathLike):
        return target
    text = path_text(target)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return FolderTarget(target, file_system or OperatingSystem())
    bucket, *prefix = text[scheme.end() :].rstrip("/").split("/")
    if not bucket or any(part in ("", ".", "..") for part in prefix):
        raise ArgumentError(f"{text!r} is not an address in an object store, such as s3://bucket/backups/shop")
    try:
        from durus.backups.obstore_store import open_store
    except ModuleNotFoundError as error:
        raise BackupError(
            f"{text}: this needs {error.name}, which is not installed: pip install 'durus[cloud]'"
        ) from error
    return ObjectTarget(open_store(scheme[1].lower(), bucket, "/".join(prefix)))
