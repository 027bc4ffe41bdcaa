"""The objects of one connection: one for each oid, and which of them keep their state in memory.

Statements OBJ-20 to OBJ-23.
"""

from collections import OrderedDict
from weakref import WeakValueDictionary

from durus.persistent import PersistentObject


class Cache:
    """The identity map of a connection, which holds about `size` objects in their loaded form."""

    def __init__(self, size: int) -> None:
        self._objects: WeakValueDictionary[bytes, PersistentObject] = WeakValueDictionary()
        self._loaded: OrderedDict[bytes, PersistentObject] = OrderedDict()
        """Objects that have a state, the least recently used one first."""
        self.set_size(size)

    def get_size(self) -> int:
        """Return how many objects may stay loaded beyond the end of a transaction."""
        return self._size

    def set_size(self, size: int) -> None:
        """Set how many objects may stay loaded; ValueError unless it is at least 1."""
        if size < 1:
            raise ValueError(f"a cache of {size} objects is too small: it needs room for 1 at least")
        self._size = size

    def get_count(self) -> int:
        """Return how many objects are in memory, ghosts among them."""
        return len(self._objects)

    def get_loaded_count(self) -> int:
        """Return how many objects have their state in memory."""
        return len(self._loaded)

    def get(self, oid: bytes) -> PersistentObject | None:
        """Return the object of this oid that is in memory, if there is one."""
        return self._objects.get(oid)

    def add(self, oid: bytes, obj: PersistentObject) -> None:
        """Take in an object that was not in memory before."""
        self._objects[oid] = obj

    def note_use(self, oid: bytes, obj: PersistentObject) -> None:
        """Note that a loaded object is in use now."""
        self._loaded[oid] = obj
        self._loaded.move_to_end(oid)

    def make_ghost(self, oid: bytes) -> None:
        """Drop the state of the object of this oid, where it is in memory."""
        self._loaded.pop(oid, None)
        obj = self._objects.get(oid)
        if obj is not None:
            obj._p_set_status_ghost()

    def shrink(self, transaction_serial: int) -> None:
        """Make ghosts of the least recently used objects beyond the size.

        What the transaction under way has used keeps its state. [OBJ-23]
        """
        while self.is_overfull():
            oid, obj = next(iter(self._loaded.items()))
            if obj._p_serial == transaction_serial:
                return
            self.make_ghost(oid)

    def is_overfull(self) -> bool:
        """Tell if more objects are loaded than the size allows."""
        return len(self._loaded) > self._size

    def is_loaded(self, oid: bytes) -> bool:
        """Tell if the object of this oid is in memory and has its state."""
        return oid in self._loaded

    def loaded_objects(self) -> list[PersistentObject]:
        """Return the objects that have their state in memory."""
        return list(self._loaded.values())
