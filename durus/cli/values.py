"""The values of options and arguments, checked before a command opens or makes anything. Statements CMD-6 and CMD-7.

Each function here is the `type` of an argument of argparse, or returns one.
"""

import argparse
import math
import os
from collections.abc import Callable

from durus import trust
from durus.error import ArgumentError
from durus.objects.trust import checked_entries
from durus.oid import oid_from_int
from durus.opening import SERVER_SCHEMES
from durus.sharing.address import HostPortAddress
from durus.sharing.protocol import DEFAULT_HOST
from durus.text import command, without_password

MAX_PORT = 65535
_OF_THIS_PROCESS = ("file", "memory")


def whole_number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a type for whole numbers from `lowest` to `highest`."""

    def check(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < lowest or (highest is not None and number > highest):
            expected = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {expected}")
        return number

    return check


def oid_of_number(text: str) -> bytes:
    """Return the oid that a number stands for."""
    return oid_from_int(whole_number(0, (1 << 64) - 1)(text))


def name_of_class(text: str) -> str:
    """Return the name of a class as records are shown with it, with a dot after the module. [CMD-19]"""
    return text.replace(":", ".")


def seconds(highest: float, or_zero: bool = False) -> Callable[[str], float]:
    """Return a type for numbers of seconds above 0, or from 0, to `highest`."""

    def check(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (0 < number <= highest or (or_zero and number == 0)):
            lowest = "from 0" if or_zero else "above 0, and"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds {lowest} up to {highest:.0f}")
        return number

    return check


def file_name(text: str) -> str:
    """Check the name of a file, for a command that takes files only. [CMD-7]"""
    return _checked(text, takes_storages=False, takes_servers=False)


def backup_target(text: str) -> str:
    """Check the name of a folder, or the address of a place in an object store. [BACKUP-50]"""
    return text if _is_in_object_store(text) else file_name(text)


def followed_name(text: str) -> str:
    """Check the name of a file or of a folder, or the address of a server or of a place in an object store."""
    return text if _is_in_object_store(text) else _checked(text, takes_storages=False, takes_servers=True)


def file_or_storage(text: str) -> str:
    """Check the name of a file, or the address of a storage of another kind."""
    return _checked(text, takes_storages=True, takes_servers=False)


def file_or_address(text: str) -> str:
    """Check the name of a file, or the address of a server or of a storage of another kind."""
    return _checked(text, takes_storages=True, takes_servers=True)


def host_and_port(text: str) -> HostPortAddress:
    """Return the address in [HOST:]PORT; without a host it is on loopback."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise argparse.ArgumentTypeError(f"{text!r}: the address of an IPv6 host is written as [{host}]:{port}")
    return HostPortAddress(host or DEFAULT_HOST, whole_number(0, MAX_PORT)(port))


def trusted_classes(text: str) -> list[str]:
    """Return the entries for the list `classes` in a text; `standard` stands for durus.trust.standard. [CMD-36]"""
    names = text.split(",")
    try:
        return checked_entries(each for name in names for each in (trust.standard if name == "standard" else [name]))
    except ArgumentError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of names with commas between them, such as 'shop.*,standard'"
        ) from None


def server_address(text: str) -> str:
    """Check the address of a server, for a command that takes nothing else."""
    if text.partition(":")[0].lower() not in SERVER_SCHEMES:
        raise argparse.ArgumentTypeError(
            f"{without_password(text)!r} is not the address of a server: expected durus://host:port, "
            "durus+tls://host:port or durus+unix:/path; --address takes the path of a socket alone"
        )
    return text


def _is_in_object_store(text: str) -> bool:
    from durus.backups.opening import is_in_object_store  # only for the commands that take a backup

    return is_in_object_store(text)


def _checked(text: str, takes_storages: bool, takes_servers: bool) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; maybe a variable of the shell is not set")
    if os.path.lexists(text):
        return text
    if text == "-":
        raise argparse.ArgumentTypeError("a database can't be read from stdin; a file with the name '-' is './-'")
    _refuse_mistaken_path(text)
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower()
    if not colon:
        return text
    if scheme in _OF_THIS_PROCESS:
        path = rest.removeprefix("//").partition("?")[0] if scheme == "file" else ""
        advice = f"give its path alone, {path}" if path else "give the path of a file"
    elif scheme in SERVER_SCHEMES and not takes_servers:
        advice = f"this command takes a file; {command('pack', text)} and {command('shell', text)} take servers"
    elif rest.startswith("//") and scheme not in SERVER_SCHEMES and not takes_storages:
        advice = "this command takes a file only"
    else:
        return text
    shown = without_password(text)
    raise argparse.ArgumentTypeError(f"{shown!r} is an address: {advice}; a file with this name is './{shown}'")


def _refuse_mistaken_path(text: str) -> None:
    if text == ":memory:":
        raise argparse.ArgumentTypeError(
            f"':memory:' would be a file of that name: a command needs a file or a server; {command('serve')} serves a "
            "temporary file"
        )
    if "?" in text and ":" not in text:
        from durus.opening import has_options  # only if needed, because of its imports

        if has_options(text):
            raise argparse.ArgumentTypeError(
                f"{text!r} would be a file of that name: give its path alone, {text.partition('?')[0]}, and the "
                "options of the command, such as --readonly"
            )
