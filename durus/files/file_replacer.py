"""How a new file replaces the file of a database, and the old one is kept. Statements SHELF-36 to SHELF-39.

The new file is written as `.pack`. Before it is renamed, the old file gets a second name, `.prepack.new`, which becomes
`.prepack` afterwards: so a file with the name of the database exists at every instant.
"""

import contextlib
import warnings

from durus.error import DurusWarning, FileError
from durus.files.file import File, FileSystem


class FileReplacer:
    """Replaces the file at `path`. After an interrupt, each step can be repeated."""

    def __init__(self, file_system: FileSystem, path: str) -> None:
        self._file_system = file_system
        self._path = path
        self._new_path = path + ".pack"
        self._link = path + ".prepack.new"
        """The second name of the old file during the replacement."""

    def remove_left_over(self) -> None:
        """Remove what a crash has left, which can be a second name of the database itself. [SHELF-39]"""
        self._remove_if_there(self._new_path)

    def create(self) -> File:
        """Return the new file, which only its owner can read."""
        return self._file_system.open(self._new_path, "private")

    def keep_old_file(self, old: File) -> None:
        """Give the old file a second name, so that it can become .prepack after losing its own. [SHELF-37]"""
        self._remove_if_there(self._link)
        if not self._file_system.link(self._path, self._link):
            warnings.warn(
                f"{self._path}: the file system has no hard links, so the state before the pack is not kept",
                DurusWarning,
                stacklevel=6,
            )
        elif not old.has_its_name(self._link):
            self._remove(self._link)

    def rename(self) -> None:
        """Give the new file the name of the old one."""
        self._file_system.replace(self._new_path, self._path)

    def is_renamed(self, new: File) -> bool:
        """Return whether the new file has the name of the database."""
        return new.has_its_name(self._path)

    def finish(self, keep_old: bool) -> None:
        """Make the replacement durable, and keep the old file as .prepack; only after that remove it. [CMD-62]"""
        if self._file_system.exists(self._link):
            self._file_system.replace(self._link, self._path + ".prepack")
            self._remove_if_there(self._link)  # the name stays if both are names of one file [SHELF-39]
        self._file_system.sync_directory(self._path)
        if not keep_old:
            self._remove_if_there(self._path + ".prepack")

    def forget_old_file(self) -> None:
        """Remove the second name of the old file, which keeps its own."""
        self._remove(self._link)

    def discard(self, new: File) -> None:
        """Close and remove a new file that has not replaced the old one."""
        new.close()
        self._remove(new.path)

    def _remove_if_there(self, path: str) -> None:
        if self._file_system.exists(path):
            self._file_system.remove(path)

    def _remove(self, path: str) -> None:
        """Remove a file that is useless after an error; a failure here is not a second error."""
        with contextlib.suppress(FileError):
            self._file_system.remove(path)
