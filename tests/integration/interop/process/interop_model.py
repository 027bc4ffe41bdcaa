"""The classes of the objects that both sides store. Durus 4.3 imports this file too, as `interop_model`."""

from typing import Any

from durus.persistent import Persistent, PersistentObject


class Plain(Persistent):
    """Has whatever attributes it is given."""


class Slotted(PersistentObject):
    """Has no place but its slots."""

    __slots__ = ("größe", "named")


class Mixed(Slotted, Persistent):
    """Has slots and a __dict__."""


class Private(PersistentObject):
    """Has a slot that is private."""

    __slots__ = ("__hidden", "seen")

    def hide(self, value: object) -> None:
        self.__hidden = value


class Own(Persistent):
    """Has a state of its own form, which is not a dict."""

    def __getstate__(self) -> Any:
        return tuple(sorted(vars(self).items()))

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(dict(state))


class Größe(Persistent):
    """Has a name that is not ASCII."""


class Outer:
    """Holds a class."""

    class Inner(Persistent):
        """Is one of another class."""


class Value:
    """Stored by value, as a part of an object's state."""
