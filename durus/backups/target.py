"""Where a backup is kept: what a folder and an object store have in common. Statements BACKUP-1, BACKUP-6.

`folder` and `objects` have the two kinds of target, and `opening` finds the kind from a name.
"""

import errno
import itertools
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from durus.backups.manifest import SEGMENT_NAME, Manifest, Segment
from durus.error import BackupError, DamageError, FileError
from durus.files.file import ReadableFile

MANIFEST = "manifest"
_MAX_LOOKED_AT = 1000
_ADVICE = (
    "the contents of this segment are lost: keep the backup, back up to another folder or prefix, and restore another "
    "generation or moment of this backup"
)


class MissingSegmentError(DamageError):
    """A segment that the manifest names does not exist; a newer manifest may not name it."""


class Part(Protocol):
    """A segment that is being written."""

    def append(self, data: bytes) -> None:
        """Take the next bytes."""

    def publish(self, name: str) -> str:
        """Make the segment durable, with this name or one that begins like it; return its name."""

    def close(self) -> None:
        """Release what is held; a part that was not published disappears now, or with the next backup."""


class Target(Protocol):
    """Where a backup is, or will be. A segment in it never changes, and the manifest is replaced last."""

    @property
    def path(self) -> str:
        """Its name in messages."""

    def read_manifest(self) -> Manifest:
        """Return the manifest. BackupError if there is none, DamageError or FormatError if it can't be read."""

    def open_segment(self, segment: Segment) -> ReadableFile:
        """Return a view of the file that was backed up, which has only the bytes of this segment.

        MissingSegmentError if the segment does not exist, DamageError if its size is wrong.
        """

    def locked(self, may_begin: bool) -> AbstractContextManager[Manifest]:
        """Keep other backups out, make this a backup if it is not one and `may_begin`, and yield the manifest.

        FileError if it is not one, and must be one. LockedError if another backup is in progress, BackupError if there
        are other files and no manifest. An object store keeps nobody out: there the end of the backup finds out.
        """

    def create_part(self) -> Part:
        """Return a new segment to write, while this is locked."""

    def replace_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest; when this is durable, remove the segments that it does not name. [BACKUP-15]

        LockedError if another backup has replaced it meanwhile.
        """


def check_is_new(path: str, names: Iterable[str], may_begin: bool) -> None:
    """Check the names in a folder or under a prefix without a manifest: only an empty one may become a backup.

    FileError if it must not because it was a backup before. [BACKUP-22]
    """
    left = sorted(itertools.islice(names, _MAX_LOOKED_AT))
    if any(SEGMENT_NAME.fullmatch(name) for name in left):
        raise BackupError(f"{path}: the manifest of this backup is missing; back up to another folder or prefix")
    if left:
        raise BackupError(f"{path}: this is not a backup, but has files, such as {left[0]}; name an empty place")
    if not may_begin:
        raise gone(path)


def gone(path: str) -> FileError:
    """Return the error for a target that was a backup before, and is empty or missing."""
    return FileError(
        errno.ENOENT,
        "the backup that was here is gone, so its disk may not be mounted: mount it, or start again to begin a new "
        "backup here",
        path,
    )


def no_backup(path: str) -> BackupError:
    """Return the error for a folder or a prefix without a manifest."""
    return BackupError(f"{path}: there is no backup here; check the name, or back up a file to it first")


def segment_view(file: ReadableFile, segment: Segment) -> ReadableFile:
    """Return the view of a segment in this file, which is closed if its size is not that of the segment."""
    size = file.size()
    if size != segment.size:
        file.close()
        raise damaged(file.path, 0, f"it has {size} bytes, not the {segment.size} that were written")
    return _SegmentView(file, segment)


class _SegmentView:
    """A file that has only the bytes of one segment, at their offsets."""

    def __init__(self, file: ReadableFile, segment: Segment) -> None:
        self.path = file.path
        self._file = file
        self._start = segment.start
        self._end = segment.end

    def size(self) -> int:
        return self._end

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset - self._start, size)

    def close(self) -> None:
        self._file.close()


def missing(path: str) -> MissingSegmentError:
    """Return the error for a segment that does not exist."""
    return MissingSegmentError(path, 0, "this segment is missing", _ADVICE)


def damaged(path: str, offset: int, problem: str) -> DamageError:
    """Return the error for a segment whose bytes are not those that were written."""
    return DamageError(path, offset, problem, _ADVICE)
