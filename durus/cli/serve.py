"""`durus serve`: serve a storage to clients, or stop a server."""

import argparse
import contextlib
import importlib
import itertools
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from durus.cli.options import (
    UsageError,
    add_address_arguments,
    add_keep_prepack_argument,
    add_storage_arguments,
    address_of,
    is_address,
    open_storage,
)
from durus.cli.output import tell
from durus.cli.signals import end_on_signals
from durus.cli.values import followed_name, host_and_port, seconds, whole_number
from durus.client_storage import ClientStorage
from durus.error import DurusError, FileError
from durus.serving.limits import Limits
from durus.serving.service_manager import ServiceManager
from durus.sharing.address import SocketAddress
from durus.sharing.inherited import inherited_address
from durus.sharing.protocol import MAX_COMMIT
from durus.sharing.protocol2 import MAX_SECONDS
from durus.sharing.roles import ROLES, Access, Role
from durus.sharing.unix_sockets import number_of_group, number_of_user
from durus.storage_server import (
    DEFAULT_COMMIT_TIMEOUT,
    DEFAULT_STALL_TIMEOUT,
    GARBAGE_BYTES,
    StorageServer,
)
from durus.text import printable, printable_lines, without_password

if TYPE_CHECKING:
    import asyncio

    from durus.sharing.tls import ServerTls

_MAX_ID = 2**32 - 2
"""The highest number of a user or a group; one more means none to chown()."""
LogFormat = Literal["text", "json"]
_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_storage_arguments(
        parser, "the file with the objects, created if it does not exist (without it: a temporary file)"
    )
    add_address_arguments(parser, "listen on")
    parser.set_defaults(option_if_in_use="--readonly", if_in_use="close it there, or give --readonly")
    parser.add_argument(
        "--allow-uid",
        action="append",
        default=[],
        type=_allowed_user,
        metavar="USER[:ROLE]",
        help="who may connect to the Unix socket, by name or number, with a role: read, write (the default) or admin; "
        "may be repeated; all others are refused, except the server's own user and root",
    )
    parser.add_argument(
        "--allow-gid",
        action="append",
        default=[],
        type=_allowed_group,
        metavar="GROUP[:ROLE]",
        help="the same for the members of a group",
    )
    parser.add_argument(
        "--may-stop",
        choices=("user", "local", "anyone"),
        default="local",
        help="who may stop the server and start a pack: its own user and root on a Unix socket; these and clients on "
        "loopback; or anyone who may write (%(default)s)",
    )
    parser.add_argument(
        "--tls-cert",
        metavar="FILE",
        help="use TLS on the port: a PEM file with the certificate of the server and the intermediate CAs; SIGHUP "
        "reads this file and the next three again",
    )
    parser.add_argument("--tls-key", metavar="FILE", help="the key of the certificate (default: in the same file)")
    parser.add_argument(
        "--tls-client-ca", metavar="FILE", help="every client must have a certificate of one of the CAs in this file"
    )
    parser.add_argument(
        "--tls-roles",
        metavar="FILE",
        help="a file of lines, each with a name in a certificate (DNS:, URI: or email:) and a role: read, write or "
        "admin; all others are refused",
    )
    parser.add_argument("--owner", type=_user, metavar="USER", help="owner of the Unix socket, a name or a number")
    parser.add_argument("--group", type=_group, metavar="GROUP", help="group of the Unix socket, a name or a number")
    parser.add_argument("--umask", type=_mask, metavar="N", help="umask of the Unix socket; octal if it begins with 0")
    parser.add_argument(
        "--gcbytes",
        type=whole_number(0),
        metavar="N",
        help="pack when N bytes have been committed since the last pack; 0 means never (without this option and the "
        f"next: when more than half of a SHELF-1 file is garbage, and at least {GARBAGE_BYTES >> 20} MiB)",
    )
    parser.add_argument(
        "--gcinterval",
        type=seconds(MAX_SECONDS, or_zero=True),
        metavar="S",
        help="pack every S seconds, if anything was committed; 0 means never",
    )
    add_keep_prepack_argument(parser)
    parser.add_argument(
        "--commit-timeout",
        type=seconds(MAX_SECONDS),
        default=DEFAULT_COMMIT_TIMEOUT,
        metavar="S",
        help="drop a client that takes longer than this to send its commit, in seconds (%(default)s)",
    )
    parser.add_argument(
        "--stall-timeout",
        type=seconds(MAX_SECONDS),
        default=DEFAULT_STALL_TIMEOUT,
        metavar="S",
        help="drop a client that stops in the middle of a request or an answer, in seconds (%(default)s)",
    )
    defaults = Limits()
    parser.add_argument(
        "--max-clients",
        type=whole_number(1),
        metavar="N",
        help="how many connections there may be; a client that may stop the server gets one more (a few less than the "
        "files that the process may open)",
    )
    parser.add_argument(
        "--max-clients-by-peer",
        type=whole_number(0),
        default=defaults.clients_by_peer,
        metavar="N",
        help="how many of them one host, or one user on a Unix socket, may have (no limit)",
    )
    parser.add_argument(
        "--max-rate",
        type=whole_number(0),
        default=defaults.rate,
        metavar="BYTES",
        help="how many bytes a second a connection may send and receive before it is slowed down (no limit)",
    )
    parser.add_argument(
        "--max-unused-oids",
        type=whole_number(1),
        default=defaults.unused_oids,
        metavar="N",
        help="how many oids a client may have asked for and not used (%(default)s)",
    )
    parser.add_argument(
        "--max-commit",
        type=whole_number(1, MAX_COMMIT),
        default=defaults.commit,
        metavar="BYTES",
        help="how many bytes the records of a commit may have (%(default)s)",
    )
    parser.add_argument(
        "--max-memory",
        type=whole_number(1),
        default=defaults.memory,
        metavar="BYTES",
        help="how many bytes of an incomplete commit and of unread answers are held for a connection (%(default)s)",
    )
    parser.add_argument(
        "--metrics",
        type=host_and_port,
        metavar="[HOST:]PORT",
        help="serve numbers for Prometheus over HTTP at this address; on loopback without a HOST",
    )
    parser.add_argument(
        "--follow",
        type=followed_name,
        metavar="SOURCE",
        help="with --readonly: keep the file up to date with a file, a backup or a server, as the command follow does",
    )
    parser.add_argument("--logfile", metavar="FILE", help="the log file; SIGHUP opens it again (default: stderr)")
    parser.add_argument(
        "--logginglevel",
        type=whole_number(0),
        default=logging.INFO,
        metavar="N",
        help="the lowest level to log (%(default)s)",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="lines for people, or one JSON object in each line (%(default)s)",
    )
    parser.add_argument("--stop", action="store_true", help="stop the server that listens on this address")


def run(options: argparse.Namespace) -> int:
    if options.stop:
        return _stop(address_of(options))
    if options.follow and not (options.readonly and options.file):
        raise UsageError("--follow goes with --readonly and a file, which becomes a copy of SOURCE")
    address = _address(options)
    tls = _tls(options)
    service_manager = ServiceManager(os.environ)
    access = Access(dict(options.allow_uid), dict(options.allow_gid), options.may_stop)
    end_on_signals()  # until the server handles them by itself
    hangups = _note_hangups()
    limits = Limits(
        options.max_clients,
        options.max_clients_by_peer,
        options.max_rate,
        options.max_unused_oids,
        options.max_commit,
        options.max_memory,
    )
    with (
        log_to(options.logfile, options.logginglevel, options.log_format) as reopen,
        _metrics(options) as serving_metrics,
        _listening_early(options, address) as early,
        _following(options),
    ):
        storage = open_storage(options)
        storage.keep_prepack = options.keep_prepack
        try:
            server = StorageServer(
                storage,
                address=address,
                gcbytes=options.gcbytes or 0,
                gcinterval=options.gcinterval or 0,
                gcgarbage=GARBAGE_BYTES if options.gcbytes is None and options.gcinterval is None else 0,
                commit_timeout=options.commit_timeout,
                stall_timeout=options.stall_timeout,
                access=access,
                tls=tls,
                limits=limits,
            )
            server.listen(early.pop() if early else None)
            name = without_password(options.file or "") or "a temporary file, which is gone when the server ends"
            tell(f"durus: listening on {server.address}, serving {name}", flush=True)
            with serving_metrics(server):
                if hangups:
                    reopen()
                server.serve(reopen, service_manager, _fast_loop())
        finally:
            storage.close()
    return 0


def _note_hangups() -> list[int]:
    """Return a list that gets the SIGHUPs that come before and after those that the server handles. [CMD-72]"""
    hangups: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, frame: hangups.append(number))
    return hangups


def _fast_loop() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    """Return what makes an event loop of uvloop, if that is installed. [CMD-29]"""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    logging.getLogger("durus").debug("the event loop is that of uvloop %s", uvloop.__version__)
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return new_event_loop


def _stop(address: SocketAddress) -> int:
    with contextlib.closing(ClientStorage(address=address)) as client:
        client.stop_server()
    tell(f"durus: the server on {address} has ended")
    return 0


def _address(options: argparse.Namespace) -> SocketAddress:
    inherited = inherited_address(os.environ)
    if inherited is not None:
        return inherited
    if options.address is not None and options.tls_cert:
        raise UsageError("--tls-cert is for a TCP port: leave out --address")
    if options.address is None and (options.allow_uid or options.allow_gid):
        raise UsageError("--allow-uid and --allow-gid are for a Unix socket: give its path with --address")
    if options.address is None and (
        options.owner is not None or options.group is not None or options.umask is not None
    ):
        raise UsageError("--owner, --group and --umask are for a Unix socket: give its path with --address")
    return address_of(options, owner=options.owner, group=options.group, umask=options.umask)


@contextlib.contextmanager
def _listening_early(options: argparse.Namespace, address: SocketAddress) -> Iterator[list[list[socket.socket]]]:
    """Listen before a new file is made, so that none is left if that is impossible; yield a list of the sockets.

    They are closed at the end if they are still in it. It is empty for a file that is there: while another process
    has that, nobody is to take this one for its server. [CMD-71]
    """
    early: list[list[socket.socket]] = []
    if options.file and not is_address(options.file) and not os.path.lexists(options.file):
        early.append(address.get_listening_sockets())
    try:
        yield early
    finally:
        for each in itertools.chain(*early):
            address.close(each)


def _following(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Return what keeps the file a copy of the source of --follow while it is entered. [CMD-66]"""
    if not options.follow:
        return contextlib.nullcontext()
    from durus.cli.follow import following_beside  # only if needed, because of its imports

    return following_beside(options.follow, options.file)


@contextlib.contextmanager
def _metrics(
    options: argparse.Namespace,
) -> Iterator[Callable[[StorageServer], contextlib.AbstractContextManager[object]]]:
    """Listen for requests, and yield what answers them with the numbers of a server while it is entered. [CMD-27]"""
    if options.metrics is None:
        yield contextlib.nullcontext
        return
    try:
        from durus.serving.metrics import serving_metrics  # only if needed, because of its imports
    except ModuleNotFoundError as error:
        raise DurusError(
            f"--metrics needs {error.name}, which is not installed: pip install 'durus[metrics]'"
        ) from error
    with contextlib.closing(options.metrics.get_listening_socket()) as listening:
        yield lambda server: serving_metrics(options.metrics, server.measures, listening)


def _tls(options: argparse.Namespace) -> "ServerTls | None":
    for name in ("tls_key", "tls_client_ca", "tls_roles"):
        if getattr(options, name) and not options.tls_cert:
            raise UsageError(f"--{name.replace('_', '-')} goes with --tls-cert")
    if options.tls_roles and not options.tls_client_ca:
        raise UsageError("--tls-roles goes with --tls-client-ca: only a certificate says who a client is")
    if not options.tls_cert:
        return None
    from durus.sharing.tls import ServerTls  # only if needed, because of its imports

    return ServerTls(options.tls_cert, options.tls_key, options.tls_client_ca, options.tls_roles)


def _user(text: str) -> int:
    return _number(text, number_of_user)


def _group(text: str) -> int:
    return _number(text, number_of_group)


def _number(text: str, find: Callable[[str], int]) -> int:
    """Return the number of a user or a group, which may be given as a number."""
    try:
        return whole_number(0, _MAX_ID)(text) if text.isdecimal() else find(text)
    except LookupError:
        raise argparse.ArgumentTypeError(f"there is no {text!r} on this machine") from None


def _allowed_user(text: str) -> tuple[int, Role]:
    return _allowed(text, number_of_user)


def _allowed_group(text: str) -> tuple[int, Role]:
    return _allowed(text, number_of_group)


def _allowed(text: str, find: Callable[[str], int]) -> tuple[int, Role]:
    """Return the number and the role in NAME[:ROLE] or NUMBER[:ROLE]."""
    name, _, role = text.partition(":")
    if role and role not in ROLES:
        raise argparse.ArgumentTypeError(f"{role!r} is not a role; the roles are {', '.join(ROLES)}")
    return _number(name, find), ROLES[role or "write"]


def _mask(text: str) -> int:
    try:
        mask = int(text, 8 if text.startswith("0") and text.isdecimal() else 0)
    except ValueError:
        mask = -1
    if not 0 <= mask <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not a umask; expected a number such as 077")
    return mask


@contextlib.contextmanager
def log_to(path: str | None, level: int, form: LogFormat = "text") -> Iterator[Callable[[], None]]:
    """Log to the file, or to stderr; yield a function that opens the file again after it was renamed."""
    logger = logging.getLogger("durus")
    handlers = [_log_handler(path, form)]

    def reopen() -> None:
        try:
            new = _log_handler(path, form)
        except FileError as error:
            logger.error("the log continues in the old file: %s", error)
            return
        old = handlers.pop()
        handlers.append(new)
        logger.addHandler(new)
        logger.removeHandler(old)
        old.close()

    logger.addHandler(handlers[0])
    logger.setLevel(level)
    try:
        yield reopen
    finally:
        logger.removeHandler(handlers[0])
        handlers[0].close()


class _Formatter(logging.Formatter):
    """Keeps each message on one line; a traceback has several. [OBJ-79]"""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return printable_lines(super().formatException(ei))


class _JsonFormatter(logging.Formatter):
    """Writes each entry as one line with a JSON object, in ASCII. [CMD-25]"""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        if numbers := getattr(record, "numbers", None):
            entry["numbers"] = numbers
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _log_handler(path: str | None, form: LogFormat) -> logging.Handler:
    try:
        handler: logging.Handler = logging.FileHandler(path) if path else logging.StreamHandler()
    except OSError as error:
        raise FileError(error.errno, f"cannot open the log file: {error.strerror}", path) from error
    handler.setFormatter(_JsonFormatter() if form == "json" else _Formatter(_LOG_FORMAT))
    return handler
