"""durus.open(): which kind of storage an address is for, and with which options. Statements DB-1 to DB-7.

Each kind of address leads to an engine, which makes a storage for each connection of the Database.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from durus.connection import check_root_class
from durus.database import Database
from durus.error import ArgumentError, FileError
from durus.files.append_only_storage import AppendOnlyStorage, Durability
from durus.files.file import Path, path_text
from durus.objects.trust import Entry, checked_entries
from durus.open_file import open_file_storage, storage_class_of
from durus.persistent import PersistentObject
from durus.persistent_dict import PersistentDict
from durus.pool.engines import Engine, EngineOfClients, EngineOfOneStorage, EngineOfReadonlyFile, EngineOfServer
from durus.pool.options import OptionType, Value, check_options, read_query
from durus.storage import MemoryStorage, Storage
from durus.text import without_password
from durus.transactions.unnoted import Debug, debug_mode

R = TypeVar("R", bound=PersistentObject)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
SERVER_SCHEMES = ("durus", "durus+tls", "durus+unix")
"""What the addresses of servers begin with, before the colon."""
_GROUP = "durus.storages"
"""The group of entry points with which other packages register their storages. [DB-7]"""

_DATABASE_OPTIONS: Mapping[str, OptionType] = {"cache_size": int, "cache_bytes": int, "tries": int}
_FILE_OPTIONS: Mapping[str, OptionType] = {"must_exist": bool, "readonly": bool, "repair": bool, "durability": str}
_SERVER_OPTIONS: Mapping[str, OptionType] = {
    "readonly": bool,
    "connect_timeout": float,
    "timeout": float,
    "prefetch": int,
    "protocol": int,
    "compress": bool,
}
_TLS_OPTIONS: Mapping[str, OptionType] = {"tls_ca": str, "tls_cert": str, "tls_key": str, "tls_server_name": str}
_CLIENT_OPTIONS = [name for name in _SERVER_OPTIONS if name != "readonly"]

_DURABILITIES: dict[Value, Durability] = {"fsync": "fsync", "os": "os"}

Options = dict[str, Value]


class OpenOptions(TypedDict, total=False):
    """The options that type checkers know. Those of other packages go into the query of an address."""

    cache_size: int
    cache_bytes: int
    tries: int
    must_exist: bool
    readonly: bool
    repair: bool
    durability: Durability
    connect_timeout: float | None
    timeout: float | None
    prefetch: int
    protocol: int
    compress: bool
    tls_ca: str
    tls_cert: str
    tls_key: str
    tls_server_name: str


class StorageOpener(Protocol):
    """What an entry point of the group `durus.storages` leads to; its name is the scheme of its addresses. [DB-7]"""

    options: Mapping[str, OptionType]
    """The types of the options that it takes, in addition to those of every database."""

    def __call__(self, address: str, /, **options: Value) -> Callable[[], Storage]:
        """Return a function that makes a storage for one more connection, in any thread.

        Args:
            address: the address without its query.
            options: the options that were given, with values of their types.
        """
        ...


@overload
def open(
    where: Path,
    *,
    root_class: None = None,
    debug: Debug | None = None,
    classes: Iterable[Entry] | None = None,
    **options: Unpack[OpenOptions],
) -> Database[PersistentDict[str, Any]]: ...
@overload
def open(
    where: Path,
    *,
    root_class: type[R],
    debug: Debug | None = None,
    classes: Iterable[Entry] | None = None,
    **options: Unpack[OpenOptions],
) -> Database[R]: ...
def open(
    where: Path,
    *,
    root_class: type[R] | None = None,
    debug: Debug | None = None,
    classes: Iterable[Entry] | None = None,
    **options: Value,
) -> Any:
    """Open a database, and create it if it does not exist.

    These are addresses [DB-1]:

        a path, as str, bytes or PathLike; `file:path`   a file, of any of the formats
        durus://host:port                                a server; without the port its usual one, 2972
        durus+tls://host:port                            a server that speaks TLS
        durus+unix:/path, durus+unix:@name               a server on a Unix socket, or an abstract one
        memory:                                          memory that lasts as long as the Database
        postgresql://user@host:port/name                 a database in PostgreSQL, with the extra `postgres`
        scheme:...                                       a storage of another package

    These are options, as keywords or in the query of the address, as in `file:my.durus?readonly=true` [DB-2]:

        cache_size   how many objects each connection keeps loaded between transactions, 100,000
        cache_bytes  how many bytes the records of these objects may have, no limit [DB-44]
        tries        how often run() and attempts() try at most: 10, and 100 on a server [DB-21]
        must_exist   True: an error if the file does not exist [DB-3]
        readonly     True: only reads; each transaction sees the newest state of a file [DB-4]
        repair       True: cuts off an incomplete transaction at the end of the file
        durability   "fsync", or "os" for commits that survive the end of the process, but not of the machine
        connect_timeout, timeout   how many seconds to wait for a server, and for its answers: 10 and 60
        prefetch     how many records a server sends ahead with each loaded one, at most: 100
        protocol     1 or 2, the version of the wire protocol; by default the latest one that the server supports
        compress     compress long messages to and from a server; by default if it is on another machine and without TLS
        tls_ca       for durus+tls: the file with the CAs that are trusted, by default those of the system [TLS-3]
        tls_cert, tls_key   for durus+tls: the files with the certificate of this client, and with its key
        tls_server_name     for durus+tls: the name in the certificate of the server, by default the host

    Args:
        where: the address.
        root_class: the class of the root, PersistentDict by default.
        debug: True or "warn" looks for changes that nobody noted, as Connection does. [OBJ-85]
        classes: what may be imported and called when objects are loaded, such as `["shop.*", *durus.trust.standard]`;
            None trusts whatever the records name. See Connection. [OBJ-100]
        options: the options.

    Returns:
        The database.

    Raises:
        ArgumentError: the address or an option is unknown, or `classes` has something that is not a name.
        StateError: the root is of another class.
        DurusError: the storage can't be opened; see the storages.
    """
    # All arguments are checked before a file is made.
    check_root_class(root_class)
    debug_mode(debug)
    trusted = None if classes is None else checked_entries(classes)
    engine, checked = _engine_of(where, options)
    database = {name: checked[name] for name in ("cache_size", "cache_bytes", "tries", "readonly") if name in checked}
    name = without_password(os.fsdecode(where))
    try:
        arguments = cast("dict[str, Any]", database)
        return Database(engine, root_class=root_class, name=name, debug=debug, classes=trusted, **arguments)
    except BaseException:
        engine.close()
        raise


def _engine_of(where: Path, keywords: Options) -> tuple[Engine, Options]:
    if not isinstance(where, str | bytes | os.PathLike):
        raise ArgumentError(f"{where!r} is not an address; expected a path, or a text like 'durus://localhost:2972'")
    matched = _SCHEME.fullmatch(where) if isinstance(where, str) else None
    if matched is None or not isinstance(where, str):
        if isinstance(where, str):
            _refuse_mistaken_path(where)
        return _open_file(os.fsdecode(where), keywords, {})
    scheme = matched[1].lower()
    rest, _, query = matched[2].partition("?")
    texts = read_query(query) if query else {}
    if scheme == "file":
        return _open_file(_path_in(where, rest), keywords, texts)
    if scheme == "memory":
        if rest:
            raise ArgumentError(f"{where!r} is not an address; a database in memory has no name, only 'memory:'")
        return EngineOfOneStorage(MemoryStorage()), check_options(where, _DATABASE_OPTIONS, keywords, texts)
    if scheme in SERVER_SCHEMES:
        return _open_server(where, _server_in(where, scheme, rest), keywords, texts, has_tls=scheme == "durus+tls")
    return _open_other(where, scheme, keywords, texts)


def _open_file(path: str, keywords: Options, texts: Mapping[str, str]) -> tuple[Engine, Options]:
    options = check_options(path_text(path), {**_DATABASE_OPTIONS, **_FILE_OPTIONS}, keywords, texts)
    readonly, repair, durability = options.get("readonly"), bool(options.get("repair")), options.get("durability")
    path = os.path.abspath(path)  # the program may change its working directory
    if (options.get("must_exist") or readonly) and not os.path.exists(path):
        raise FileError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if readonly:
        if repair:
            raise ArgumentError(f"{path}: readonly=True and repair=True exclude each other")
        return EngineOfReadonlyFile(path), options
    if durability is None:
        return EngineOfOneStorage(open_file_storage(path, repair=repair)), options
    if durability not in _DURABILITIES:
        raise ArgumentError(f"the option 'durability' is {durability!r}; it must be 'fsync' or 'os'")
    kind = storage_class_of(path)
    if not issubclass(kind, AppendOnlyStorage):
        raise ArgumentError(f"{path}: a SQLite file has no option 'durability'")
    return EngineOfOneStorage(kind(path, repair=repair, durability=_DURABILITIES[durability])), options


def has_options(path: str) -> bool:
    """Return whether a path ends as an address with options does. [DB-8]

    Args:
        path: the path.
    """
    query = path.partition("?")[2]
    return not {*_DATABASE_OPTIONS, *_FILE_OPTIONS}.isdisjoint(part.partition("=")[0] for part in query.split("&"))


def _refuse_mistaken_path(where: str) -> None:
    """Raise ArgumentError for a path that would make a file, and is probably meant as an address. [DB-8]"""
    if os.path.lexists(where):
        return
    if where == ":memory:":
        meant = "'memory:' is the address of a database in memory"
    elif has_options(where):
        from urllib.parse import quote  # only if needed, because of its imports

        path, _, query = where.partition("?")
        quoted = quote(path, errors="surrogatepass")  # it need not be text
        meant = f"a path has no options, so write {f'file:{quoted}?{query}'!r}"
    else:
        return
    raise ArgumentError(
        f"{where!r} is not the path of a file that exists: {meant}; pathlib.Path makes a file of that name"
    )


def _path_in(where: str, rest: str) -> str:
    """Return the path in `file:path`, `file:/path`, `file:///path` or `file://localhost/path`."""
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost") or not slash:
            raise ArgumentError(f"{where!r} is not the address of a local file; write file:path, or file:///path")
        rest = "/" + path
    from urllib.parse import unquote  # only if needed, because of its imports

    try:
        return unquote(rest, errors="strict" if rest.isascii() else "surrogateescape")
    except UnicodeDecodeError as error:
        raise ArgumentError(
            f"{where!r} is not the address of a local file: {error}; pass a path that is not text as bytes"
        ) from None


def _server_in(where: str, scheme: str, rest: str) -> tuple[str, int] | str:
    """Return the address of a server, in the form that SocketAddress takes."""
    from durus.sharing.address import split_host_and_port
    from durus.sharing.protocol import DEFAULT_PORT

    if scheme == "durus+unix":
        if rest.startswith("//"):
            rest = rest[2:]
            if not rest.startswith("/"):
                raise ArgumentError(f"{where!r} is not the address of a Unix socket; write durus+unix:/path")
        from urllib.parse import unquote  # as above

        name = unquote(rest)
        if not name or name == "@":
            raise ArgumentError(
                f"{where!r} is not the address of a Unix socket; write durus+unix:/path or durus+unix:@name"
            )
        return name if name.startswith("@") else os.path.abspath(name)
    found = split_host_and_port(f"{scheme}:{rest}") if rest.startswith("//") else None
    if found is None:
        raise ArgumentError(f"{without_password(where)!r} is not the address of a server; write {scheme}://host:port")
    host, port = found
    return host, DEFAULT_PORT if port is None else port


def _open_server(
    where: str, server: tuple[str, int] | str, keywords: Options, texts: Mapping[str, str], has_tls: bool
) -> tuple[Engine, Options]:
    from durus.pool.turn import TurnTakingClient  # only for a server, because of its imports
    from durus.sharing.address import SocketAddress, TlsAddress

    known = {**_DATABASE_OPTIONS, **_SERVER_OPTIONS, **(_TLS_OPTIONS if has_tls else {})}
    options = check_options(where, known, keywords, texts)
    if has_tls:
        for_tls = cast("dict[str, Any]", {name: options[name] for name in _TLS_OPTIONS if name in options})
        address: SocketAddress = TlsAddress(*cast("tuple[str, int]", server), **for_tls)
    else:
        address = SocketAddress.new(server)
    own = {name: options[name] for name in _CLIENT_OPTIONS if name in options}
    arguments = cast("dict[str, Any]", own)
    return EngineOfServer(lambda: TurnTakingClient(address=address, **arguments)), options


def _open_other(where: str, scheme: str, keywords: Options, texts: Mapping[str, str]) -> tuple[Engine, Options]:
    opener = _find_opener(where, scheme)
    if opener is None:
        return _open_file(where, keywords, {})
    known = {**_DATABASE_OPTIONS, "readonly": bool, **opener.options}
    options = check_options(without_password(where), known, keywords, texts)
    return EngineOfClients(_new_client(opener, where, options)), options


def _find_opener(where: str, scheme: str) -> StorageOpener | None:
    """Return what makes storages for this scheme; None if there is none, and the address is the path of a file."""
    from importlib.metadata import entry_points  # slow to import

    found = {entry.name: entry for entry in entry_points(group=_GROUP)}
    if scheme in found:
        opener: StorageOpener = found[scheme].load()
        return opener
    if os.path.exists(where):
        return None
    known = ", ".join(sorted({"file", *SERVER_SCHEMES, "memory", *found}))
    raise ArgumentError(
        f"{without_password(where)!r} has an unknown scheme; known ones are {known}. A file with this name is "
        f"'./{without_password(where)}'"
    )


def _new_client(opener: StorageOpener, where: str, options: Options) -> Callable[[], Storage]:
    own = {name: value for name, value in options.items() if name in opener.options}
    return opener(where.partition("?")[0], **own)


def server_named(where: str) -> tuple[str, int] | str | None:
    """Return the address of a server, None for anything else.

    Args:
        where: the name, as a command was given it: `durus://host:port`, `durus+tls://...` or `durus+unix:/path`.

    Raises:
        ArgumentError: it has such a form, and is wrong.
    """
    matched = _SCHEME.fullmatch(where)
    if matched is None or matched[1].lower() not in SERVER_SCHEMES or os.path.exists(where):
        return None
    if matched[1].lower() == "durus+tls":
        return "durus+tls:" + matched[2]
    return _server_in(where, matched[1].lower(), matched[2])


def names_other_storage(where: str) -> bool:
    """Return whether a name is the address of a registered storage, and not that of a file or of a server of Durus.

    Args:
        where: the name, as a command was given it.
    """
    matched = _SCHEME.fullmatch(where)
    if matched is None or not matched[2].startswith("//") or os.path.exists(where):
        return False
    return matched[1].lower() not in ("file", *SERVER_SCHEMES)


def open_other_storage(where: str, readonly: bool = False) -> Storage:
    """Open the storage of an address whose scheme is registered. [DB-7]

    Args:
        where: the address, with options in its query.
        readonly: change nothing, if the storage has that option.

    Raises:
        ArgumentError: the scheme or an option is unknown.
        DurusError: the storage can't be opened.
    """
    address, _, query = where.partition("?")
    opener = _find_opener(where, address.partition(":")[0].lower())
    if opener is None:
        raise ArgumentError(f"{without_password(where)} is not an address")
    keywords: Options = {"readonly": True} if readonly and "readonly" in opener.options else {}
    options = check_options(without_password(where), opener.options, keywords, read_query(query) if query else {})
    return _new_client(opener, where, options)()
