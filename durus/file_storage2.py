"""FileStorage2: a storage in one DFS20 file, the older format. spec/file-storage-2.md."""

from durus.files import dfs20
from durus.files.append_only_storage import AppendOnlyStorage, Durability
from durus.files.dfs20.dfs20 import Dfs20
from durus.files.file import FileSystem, Path


class FileStorage2(AppendOnlyStorage[Dfs20]):
    """A storage in the DFS20 file `file`, which is made if it is not there.

    The format has no checksums: of a changed byte inside an object nothing is noticed. New files are better
    made with FileStorage, whose arguments and errors this class has.
    """

    file_format = dfs20.FORMAT

    def __init__(
        self,
        file: Path | None = None,
        readonly: bool = False,
        repair: bool = False,
        *,
        durability: Durability = "fsync",
        file_system: FileSystem | None = None,
    ) -> None:
        super().__init__(file, readonly, repair, durability, file_system)
