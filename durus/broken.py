"""Broken objects: stand-ins for objects whose classes can't be imported. Statements OBJ-27 to OBJ-29."""

from typing import ClassVar, Self

from durus.error import ClassNotFoundError
from durus.persistent import PersistentObject, State, get_slot, set_slot


class BrokenObject(PersistentObject):
    """Stands for an object whose class can't be imported; each missing class is a subclass of it.

    Its attributes are those in the stored state, where that is a dict of such; else __getstate__() gives it as it is.
    """

    __slots__ = ("__dict__", "_p_other_state")

    _p_reason: ClassVar[str] = "it stands for all that are missing"
    """The error that the class was missing for."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        raise ClassNotFoundError(
            f"the class {cls.__qualname__!r} can't be imported from the module {cls.__module__!r} "
            f"({cls._p_reason}); make it available under that name, then load what needs it again",
            name=cls.__module__,
        )

    def __getstate__(self) -> State:
        return self._p_other_state if self._p_has_other_state() else super().__getstate__()

    def __setstate__(self, state: State) -> None:
        if type(state) is dict and all(isinstance(name, str) and not _is_reserved(name) for name in state):
            super().__setstate__(state)
        else:
            set_slot(self, "_p_other_state", state)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_p_"):
            self._p_load_state()
            if self._p_has_other_state():
                raise ClassNotFoundError(
                    f"{self!r}: the attribute {name!r} can't be set: only its class knows what its state means, and it "
                    f"can't be imported from the module {type(self).__module__!r} ({type(self)._p_reason})",
                    name=type(self).__module__,
                )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<broken {type(self).__module__}.{type(self).__qualname__} {self._p_format_oid()}>"

    def _p_has_other_state(self) -> bool:
        """Tell if the state that was loaded is no dict of attributes."""
        try:
            get_slot(self, "_p_other_state")
        except AttributeError:
            return False
        return True

    def _p_clear_state(self) -> None:
        super()._p_clear_state()
        if self._p_has_other_state():
            object.__delattr__(self, "_p_other_state")


def _is_reserved(name: str) -> bool:
    return name.startswith("_p_") or (name.startswith("__") and name.endswith("__"))


def broken_class(module: str, name: str, error: Exception) -> type[BrokenObject]:
    """Return a class that stands for the one of this qualified name in a module; `error` tells why it is missing."""
    attributes = {
        "__slots__": (),
        "__module__": module,
        "__qualname__": name,
        # No more than the text: the error itself would keep what was on the stack in memory.
        "_p_reason": f"{type(error).__name__}: {error}",
    }
    return type(name.rpartition(".")[2], (BrokenObject,), attributes)
