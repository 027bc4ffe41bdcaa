"""Refuses copies of what exists once in a process. Statement TXN-39.

A second object with the same descriptor would close the file of the first one, and the number of the descriptor may
belong to another file by then.
"""

from typing import NoReturn, SupportsIndex


class Uncopied:
    """Holds a file, a connection or the state of its clients, so that copy and pickle refuse it."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} can't be copied, pickled or stored, since it belongs to this process: pass on "
            "its address or path, and open that"
        )
