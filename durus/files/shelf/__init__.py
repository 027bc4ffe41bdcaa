"""The SHELF-1 file: layout, reading, writing, offset map, seals, recovery. spec/shelf.md."""

from durus.files.file_format import FileFormat
from durus.files.shelf.inspection import ShelfInspection
from durus.files.shelf.layout import MAGIC, NAME
from durus.files.shelf.new_shelf import NewShelf
from durus.files.shelf.pack import ShelfPacker
from durus.files.shelf.shelf import EMPTY_FILE, Shelf

FORMAT = FileFormat(
    name=NAME,
    magic=MAGIC,
    empty_file=EMPTY_FILE,
    read=Shelf,
    packer=ShelfPacker,
    new_file=NewShelf,
    inspect=ShelfInspection,
)
