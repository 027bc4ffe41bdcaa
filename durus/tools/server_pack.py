"""Has a server pack, and finds out when it has, as far as protocol 1 allows. Statement CMD-20."""

import pickle
from collections.abc import Iterator

from durus.client_storage import ClientStorage
from durus.error import DurusKeyError, ReadConflictError
from durus.objects.pickling import PICKLE_PROTOCOL, class_pickle
from durus.oid import ROOT_OID
from durus.persistent import Persistent
from durus.records.record import pack_record

_PAUSE = 0.05
"""Seconds between the first two checks; each pause is longer than the one before."""
_MAX_PAUSE = 1.0
_FIRST_REPEAT = 1.0
_MAX_REPEAT = 300.0


def gen_server_pack(storage: ClientStorage) -> Iterator[float]:
    """Ask the server to pack, and yield how many seconds to wait before the next step, until it has packed. [CMD-20]

    Give it a storage of its own, since it syncs, and one with reconnect=False: a server that was
    started again has forgotten the pack. The protocol does not report that a pack failed, so the caller sets a limit.
    DisconnectedError if the server ends, or does not take commits.
    """
    garbage = storage.new_oid()
    if garbage == ROOT_OID:  # there is no root, so there is nothing to pack
        storage.pack()
        return
    storage.begin()
    storage.store(garbage, pack_record(garbage, class_pickle(Persistent) + pickle.dumps({}, PICKLE_PROTOCOL), b""))
    storage.end()
    storage.pack()
    pause, repeat, since_asked = _PAUSE, _FIRST_REPEAT, 0.0
    while not _is_removed(storage, garbage):
        if since_asked >= repeat:  # an earlier pack may have begun before the commit, and have ended
            storage.pack()
            repeat, since_asked = min(2 * repeat, _MAX_REPEAT), 0.0
        yield pause
        since_asked += pause
        pause = min(1.5 * pause, _MAX_PAUSE)


def _is_removed(storage: ClientStorage, oid: bytes) -> bool:
    storage.sync()  # otherwise the server would keep the changes of others for this client
    try:
        storage.load(oid)
    except (
        DurusKeyError,
        ReadConflictError,
    ):  # which one depends on the server: 4.3 does not report that it is invalid
        return True
    return False
