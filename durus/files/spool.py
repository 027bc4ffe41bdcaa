"""Records that are kept until all of them are known, because a new file begins with their length."""

import contextlib
import os
import tempfile
from types import TracebackType
from typing import Self

from durus.files.file import os_errors_as, temporary_folder


class Spool:
    """A temporary file without a name, beside a file that is being made, or where the system keeps such files.

    Args:
        path: The file that is being made, None for the folder of the system. Errors name it.
    """

    def __init__(self, path: str | None = None) -> None:
        self._beside = temporary_folder() if path is None else path
        with self._errors_as("make"):
            self._file = tempfile.TemporaryFile(dir=None if path is None else os.path.dirname(path))  # noqa: SIM115

    def write(self, data: bytes) -> None:
        """Append bytes."""
        try:
            self._file.write(data)
        except OSError:
            with self._errors_as("write"):
                raise

    def rewind(self) -> None:
        """Begin to read."""
        with self._errors_as("write"):  # what is buffered
            self._file.seek(0)

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        try:
            return self._file.read(size)
        except OSError:
            with self._errors_as("read"):
                raise

    def _errors_as(self, operation: str) -> contextlib.AbstractContextManager[None]:
        return os_errors_as(f"{operation} a temporary file beside it", self._beside)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # of what is buffered, and not needed any more
            self._file.close()
