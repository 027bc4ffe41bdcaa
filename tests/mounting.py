"""A disk that is away for a while, as a folder that has another name meanwhile."""

from pathlib import Path


class Disk:
    """The disk of a folder.

    Args:
        folder: what is on the disk, while it is mounted.
        has_mount_point: tells whether the folder is there, and empty, while the disk is away.
    """

    def __init__(self, folder: Path, has_mount_point: bool) -> None:
        self._folder = folder
        self._away = folder.with_name("away")
        self._has_mount_point = has_mount_point

    def unmount(self) -> None:
        self._folder.rename(self._away)
        if self._has_mount_point:
            self._folder.mkdir()

    def mount(self) -> None:
        """Bring the disk back; nothing may have been written without it."""
        if self._has_mount_point:
            assert list(self._folder.iterdir()) == []
            self._folder.rmdir()
        self._away.rename(self._folder)
