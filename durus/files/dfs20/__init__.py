"""The file of FileStorage2: its layout, reading and packing. spec/file-storage-2.md."""

from durus.files.dfs20.dfs20 import Dfs20
from durus.files.dfs20.inspection import Dfs20Inspection
from durus.files.dfs20.layout import EMPTY_FILE, MAGIC, NAME
from durus.files.dfs20.pack import Dfs20Packer, NewDfs20
from durus.files.file_format import FileFormat

FORMAT = FileFormat(
    name=NAME,
    magic=MAGIC,
    empty_file=EMPTY_FILE,
    read=Dfs20,
    packer=Dfs20Packer,
    new_file=NewDfs20,
    inspect=Dfs20Inspection,
)
