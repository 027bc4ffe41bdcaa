"""A backup in a folder: reading it, and the few ways to change it.

A file in it never changes once it has its name. A new file gets its name when it is durable, and the manifest is
replaced last. Statements BACKUP-1, BACKUP-6, BACKUP-15 to BACKUP-17, BACKUP-20.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from durus.backups.manifest import SEGMENT_NAME, Manifest, Segment, pack_manifest, parse_manifest
from durus.backups.target import MANIFEST, check_is_new, gone, missing, no_backup, segment_view
from durus.error import BackupError, FileError, LockedError
from durus.files.file import File, FileSystem, Path, ReadableFile, closing_on_error, path_text
from durus.files.publishing import read_file, replace_file

_LOCK = "lock"
_PART = ".part"


class FolderTarget:
    """The folder `path`, which need not exist yet."""

    def __init__(self, path: Path, file_system: FileSystem) -> None:
        self.path = os.path.abspath(path_text(path))
        self._file_system = file_system
        self._lock: File | None = None
        """The file `lock`, while this process holds it."""

    def _path_of(self, name: str) -> str:
        return os.path.join(self.path, name)

    # Reading

    def read_manifest(self) -> Manifest:
        path = self._path_of(MANIFEST)
        data = read_file(path, self._file_system)
        if data is None:
            raise no_backup(self.path)
        return parse_manifest(data, path)

    def open_segment(self, segment: Segment) -> ReadableFile:
        path = self._path_of(segment.name)
        try:
            file = self._file_system.open(path, "read")
        except FileError as error:
            if error.errno != errno.ENOENT:
                raise
            raise missing(path) from error
        with closing_on_error(file):
            return segment_view(file, segment)

    # Writing

    @contextlib.contextmanager
    def locked(self, may_begin: bool) -> Iterator[Manifest]:
        """Lock the folder, and remove leftovers of earlier runs."""
        if not self._file_system.exists(self.path):
            if not may_begin:
                raise gone(self.path)
            self._file_system.make_directory(self.path)
            self._file_system.sync_directory(self.path)
        manifest_path = self._path_of(MANIFEST)
        if not self._file_system.exists(manifest_path):
            self._check_empty(may_begin)
        lock_path = self._path_of(_LOCK)
        lock = self._file_system.open(lock_path, "write" if self._file_system.exists(lock_path) else "private")
        try:
            try:
                lock.lock()
            except LockedError as error:
                locked = LockedError(errno.EWOULDBLOCK, "another backup to this folder is in progress", self.path)
                locked.advice = "wait for it to end"
                raise locked from error
            if not self._file_system.exists(manifest_path):
                self._write_manifest(Manifest())
            manifest = self.read_manifest()
            self._remove_unused(manifest)
            self._lock = lock
            yield manifest
        finally:
            self._lock = None
            lock.close()

    def _check_place(self) -> None:
        """Check that the folder that was locked still has its name. [BACKUP-17]"""
        if self._lock is not None and not self._lock.has_its_name():
            raise FileError(errno.ESTALE, "this folder was replaced by another one in the meantime", self.path)

    def _check_empty(self, may_begin: bool) -> None:
        try:
            names = self._file_system.names_beside(self._path_of(MANIFEST))
        except FileError as error:
            if error.errno != errno.ENOTDIR:
                raise
            problem = "this is a file, and a backup needs a folder; name another place"
            raise BackupError(f"{self.path}: {problem}") from error
        if MANIFEST not in names:  # else another backup has just begun here
            check_is_new(self.path, (name for name in names if name not in (_LOCK, MANIFEST + _PART)), may_begin)

    def create_part(self) -> "_FolderPart":
        self._check_place()
        return _FolderPart(self._file_system, self._create(self._path_of(f"segment{_PART}")), self.path)

    def replace_manifest(self, manifest: Manifest) -> None:
        self._check_place()
        self._write_manifest(manifest)
        self._remove_unused(manifest)

    def _write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest; return when this is durable."""
        replace_file(self._path_of(MANIFEST), pack_manifest(manifest), self._file_system)

    def _remove_unused(self, manifest: Manifest) -> None:
        """Remove segments that the manifest does not name, and files that were not completed. [BACKUP-16]"""
        used = manifest.segments()
        for name in self._file_system.names_beside(self._path_of(MANIFEST)):
            is_segment = SEGMENT_NAME.fullmatch(name) is not None
            if (is_segment and name not in used) or name in (f"segment{_PART}", MANIFEST + _PART):
                self._file_system.remove(self._path_of(name))

    def _create(self, path: str) -> File:
        if self._file_system.exists(path):
            self._file_system.remove(path)
        return self._file_system.open(path, "private")


class _FolderPart:
    """A file that becomes a segment."""

    def __init__(self, file_system: FileSystem, file: File, folder: str) -> None:
        self._file_system = file_system
        self._file = file
        self._folder = folder
        self._is_published = False

    def append(self, data: bytes) -> None:
        self._file.append(data)

    def publish(self, name: str) -> str:
        path = os.path.join(self._folder, name)
        self._file.sync()
        self._file_system.replace(self._file.path, path)
        self._is_published = True
        self._file_system.sync_directory(path)
        return name

    def close(self) -> None:
        self._file.close()
        if not self._is_published:  # it may have filled the disk
            with contextlib.suppress(FileError):  # the next backup does it
                self._file_system.remove(self._file.path)
