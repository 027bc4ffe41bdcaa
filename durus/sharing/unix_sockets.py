"""Unix sockets as files: their owner, their permissions, and their folder. Statement WIRE-54."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from durus.error import AddressError


def umask_of_process() -> int:
    """Return the umask, without changing it for other threads where the system reveals it."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def number_of_user(owner: str | int | None) -> int:
    """Return the number of a user, -1 if none is given; LookupError if there is no such user."""

    def find(name: str) -> int:
        import pwd  # only where it is needed: not every system has it

        return pwd.getpwnam(name).pw_uid

    return _number_of("user", owner, find)


def number_of_group(group: str | int | None) -> int:
    """Return the number of a group, -1 if none is given; LookupError if there is no such group."""

    def find(name: str) -> int:
        import grp  # likewise

        return grp.getgrnam(name).gr_gid

    return _number_of("group", group, find)


def _number_of(kind: str, given: str | int | None, find: Callable[[str], int]) -> int:
    if isinstance(given, str):
        try:
            return find(given)
        except KeyError:
            raise LookupError(f"no such {kind}: {given!r}") from None
    return -1 if given is None else given


@contextlib.contextmanager
def same_file(path: str, made: os.stat_result) -> Iterator[str]:
    """Give a name for the file that was made there, through which nobody can lay another one meanwhile.

    AddressError if there is another one already.
    """
    wrong = AddressError(f"cannot listen on {path}: another process has replaced the socket")
    if not hasattr(os, "O_PATH") or not os.path.isdir("/proc/self/fd"):
        if not os.path.samestat(os.lstat(path), made):
            raise wrong
        yield path
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not os.path.samestat(os.fstat(descriptor), made):
            raise wrong
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def risk_of_folder(folder: str) -> str | None:
    """Describe what others can do in the folder of a socket. [WIRE-54]"""
    mode = os.stat(folder).st_mode
    if not mode & stat.S_IWOTH:
        return None
    what = "while no server runs here" if mode & stat.S_ISVTX else "at any time"
    return (
        f"every user can write to the folder {folder}, and so can put a socket in place of this one {what}; "
        "use a folder that belongs to the user of the server"
    )


def number_or_name(owner: str | int | None) -> str | int | None:
    return int(owner) if isinstance(owner, str) and owner.isdecimal() else owner
