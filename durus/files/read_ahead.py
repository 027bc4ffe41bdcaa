"""Reading small parts of a file that never change: whole pages at a time, of which the latest are kept."""

from durus.error import DamageError
from durus.files.file import ReadableFile

PAGE_SIZE = 1 << 13
MAX_PAGES = 128


class ReadAhead:
    """Keeps pages that were read. It must not read after the sound part of the file, which may be cut off."""

    def __init__(self, file: ReadableFile) -> None:
        self.file = file
        self.pages: dict[int, bytes] = {}
        """By number; a page is shorter if the sound part of the file ended in it. Several threads may read."""

    def window(self, offset: int, size: int, end: int) -> tuple[bytes, int]:
        """Return a buffer that contains the `size` bytes of the file from `offset` on, and their index in it.

        There are fewer, at the start of the buffer, if the file or its sound part that ends at `end` is too short.
        """
        page = self.pages.get(offset // PAGE_SIZE)
        if page is not None:
            index = offset % PAGE_SIZE
            if index + size <= len(page):
                return page, index
        return self._read(offset, size, end)

    def _read(self, offset: int, size: int, end: int) -> tuple[bytes, int]:
        number, index = divmod(offset, PAGE_SIZE)
        if index + size <= PAGE_SIZE and offset < end:
            start = number * PAGE_SIZE
            try:
                page = self.file.read_at(start, min(PAGE_SIZE, end - start))
            except DamageError:  # it may be in bytes that nobody has asked for
                pass
            else:
                if len(self.pages) >= MAX_PAGES:
                    self.pages = {}
                self.pages[number] = page
                return page[index:], 0
        return self.file.read_at(offset, max(min(size, end - offset), 0)), 0
