"""What records may name, and what a name stands for. Statements OBJ-100 to OBJ-103.

A list contains names and patterns of names. A record names a class or a function by a module and a qualified name. Such
a name leads from the module through classes to what it names, and never through what a module has imported: `os.path.*`
does not cover `os.path.os.system`.
"""

import re
import sys
from collections.abc import Iterable
from enum import EnumMeta
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from durus.error import ArgumentError, UntrustedClassError
from durus.records.present_names import present_name

Entry = str | type | ModuleType

_OWN = (
    "durus.persistent.ComputedAttribute",
    "durus.persistent.Persistent",
    "durus.persistent.PersistentObject",
    "durus.persistent_dict.PersistentDict",
    "durus.persistent_list.PersistentList",
    "durus.persistent_set.PersistentSet",
    "durus.btree.BTree",
    "durus.btree.BNode",
    *(f"durus.btree.BNode{1 << power}" for power in range(2, 10)),
)
_STEPS = ("builtins.object", "copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__")
"""The functions that older pickles call, and that have opcodes of their own in newer ones."""
ALWAYS = frozenset((*_OWN, *_STEPS))
"""The names that every list contains. [OBJ-101]"""
GUARDED = frozenset({"builtins.getattr", "_codecs.encode"})
"""Functions that a record may call only in the ways in which pickles use them. [OBJ-103]"""

_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType)
_DESCRIPTORS = (MethodDescriptorType, ClassMethodDescriptorType, WrapperDescriptorType)
_METHODS = (FunctionType, classmethod, staticmethod, *_DESCRIPTORS)


class Trust:
    """The names that records may contain.

    Args:
        classes: full names such as `shop.Person`, in which each `*` stands for any characters; classes; and modules,
            which stand for everything that is defined in them.

    Raises:
        ArgumentError: an entry is something else.
    """

    def __init__(self, classes: Iterable[Entry]) -> None:
        entries = checked_entries(classes)
        self._exact = ALWAYS.union(entry for entry in entries if "*" not in entry)
        patterns = sorted({entry for entry in entries if "*" in entry})
        self._pattern = re.compile("|".join(map(_as_regex, patterns)) or "(?!)", re.DOTALL)

    def allows(self, module: str, qualname: str) -> bool:
        """Return whether a name is covered, by an entry of that name or by a pattern."""
        name = f"{module}.{qualname}"
        return name in self._exact or self._pattern.fullmatch(name) is not None

    def find(self, module: str, qualname: str) -> Any:
        """Import the module, and return what the name stands for.

        A name of Python 2 that is not covered counts as its name in Python 3.

        Raises:
            UntrustedClassError: the name is not covered, and nothing was imported; or the pattern that covers the name
                does not cover what it stands for.
            ImportError: the module does not exist.
            AttributeError: the module has no such name.
            Exception: whatever the module raises when it is imported.
        """
        if not self.allows(module, qualname):
            present = present_name(module, qualname)
            if present == (module, qualname) or not self.allows(*present):
                raise UntrustedClassError(
                    f"{module}.{qualname} is not in the list `classes` and was not imported (add it if you trust it)",
                    name=module,
                )
            module, qualname = present
        __import__(module)
        is_exact = f"{module}.{qualname}" in self._exact
        first, *others = qualname.split(".")
        found = _in_module(sys.modules[module], first, is_exact and not others)
        for name in others:
            found = self.bound_member(found, name) if isinstance(found, type) else _no_class(module, qualname)
        if not is_exact:
            self._check_own_name(found, module, qualname)
        return found

    def bound_member(self, owner: object, name: str) -> Any:
        """Return the method or nested class of this name, from a class or from the class of an object."""
        cls: type = owner if isinstance(owner, type) else type(owner)
        for base in cls.__mro__:
            if name in base.__dict__:
                member = base.__dict__[name]
                if isinstance(member, type):
                    return member
                if isinstance(member, _METHODS):
                    return member.__get__(None if owner is cls else owner, cls)
                _no_class(cls.__module__, f"{cls.__qualname__}.{name}")
        raise AttributeError(f"{cls.__module__}.{cls.__qualname__} has no method and no class {name!r}")

    def attribute(self, owner: object, name: str) -> Any:
        """Return what a record gets from getattr(owner, name): a nested class, a method or an enum member. [OBJ-103]

        Raises:
            UntrustedClassError: the name is not covered; for an object, its class counts as the owner of the name.
            AttributeError: there is no such method or class.
        """
        if isinstance(owner, EnumMeta) and name in owner.__members__:
            return owner.__members__[name]
        cls = owner if isinstance(owner, type) else type(owner)
        found = self.find(cls.__module__, f"{cls.__qualname__}.{name}")
        return found if owner is cls else self.bound_member(owner, name)

    def _check_own_name(self, found: object, module: str, qualname: str) -> None:
        own = _own_name(found)
        if own != (module, qualname) and (own is None or not self.allows(*own)):
            what = f"a {type(found).__name__}" if own is None else ".".join(own)
            raise UntrustedClassError(
                f"{module}.{qualname} stands for {what}, which the pattern in the list `classes` does not cover (add "
                f"{module}.{qualname} itself if you trust it)",
                name=module,
            )


def checked_entries(classes: object) -> list[str]:
    """Return the names and patterns of all entries; ArgumentError for anything that is not an entry."""
    if isinstance(classes, str | bytes) or not isinstance(classes, Iterable):
        raise ArgumentError(f"classes is {classes!r}; it must be a list, such as ['shop.*', *durus.trust.standard]")
    return [_text_of(entry) for entry in classes]


def _text_of(entry: object) -> str:
    if isinstance(entry, type):
        return f"{entry.__module__}.{entry.__qualname__}"
    if isinstance(entry, ModuleType):
        return f"{entry.__name__}.*"
    if not isinstance(entry, str) or not re.fullmatch(r"[^\s.]+(\.[^\s.]+)+|\*", entry):
        raise ArgumentError(
            f"the list `classes` has {entry!r}; an entry is a name such as 'shop.Person' or 'shop.*', a class or a "
            "module"
        )
    return entry


def _as_regex(pattern: str) -> str:
    return ".*".join(map(re.escape, pattern.split("*")))


def _in_module(module: ModuleType, name: str, is_exact: bool) -> Any:
    """Return the attribute of a module; the module's __getattr__ is called only for a name that is itself an entry."""
    if name not in vars(module) and not is_exact:
        raise AttributeError(f"the module {module.__name__} has no {name!r}")
    return getattr(module, name)


def _no_class(module: str, qualname: str) -> Any:
    raise UntrustedClassError(
        f"{module}.{qualname} is not found through classes alone, so the list `classes` can't allow it",
        name=module,
    )


def _own_name(found: object) -> tuple[str, str] | None:
    """Return the module and the name with which a class or a function was defined; None for anything else."""
    if isinstance(found, type):
        return str(found.__module__), found.__qualname__
    if isinstance(found, MethodType):
        found = found.__func__
    if isinstance(found, _DESCRIPTORS):
        return str(found.__objclass__.__module__), found.__qualname__
    if not isinstance(found, _FUNCTIONS):
        return None
    owner = getattr(found, "__self__", None)
    if isinstance(owner, type):  # a class method of a built-in class, perhaps inherited from a base class
        definer = next((base for base in owner.__mro__ if found.__name__ in base.__dict__), owner)
        return str(definer.__module__), f"{definer.__qualname__}.{found.__name__}"
    return str(found.__module__), found.__qualname__
