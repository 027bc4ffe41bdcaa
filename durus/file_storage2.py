"""FileStorage2: a storage in one DFS20 file, the older format. spec/file-storage-2.md."""

from durus.files import dfs20
from durus.files.append_only_storage import AppendOnlyStorage, Durability
from durus.files.dfs20.dfs20 import Dfs20
from durus.files.file import FileSystem, Path


class FileStorage2(AppendOnlyStorage[Dfs20]):
    """A storage in one DFS20 file, the older format.

    The format has no checksums, so a changed byte inside an object remains unnoticed. Use FileStorage for new files. It
    raises the same errors.

    Args:
        file: the path of the file, as for FileStorage.
        readonly: as for FileStorage.
        repair: as for FileStorage.
        durability: as for FileStorage.
        file_system: as for FileStorage.
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
