"""Read pickled states in which only some names may be imported and called. Statements OBJ-100 to OBJ-104.

Most states are plain values and references. Python's fast unpickler reads these. It gets only empty objects, the
tokens, for the names in them: a token can't be called, instantiated or changed, and is turned into a class only in a
reference. If a token remains in the state, or a step fails, the state contains an instance of a class. It is then read
by an unpickler in Python, which checks each step.
"""

import copyreg
import io
import pickle
import weakref
from collections.abc import Callable
from enum import Enum
from types import BuiltinFunctionType, FunctionType, GenericAlias, MethodType, ModuleType
from typing import Any, ClassVar, Protocol

from durus.error import DurusError, RecordError, UntrustedClassError
from durus.objects.broken import BrokenValue
from durus.objects.pickling import REFUSALS
from durus.objects.unpickling import CarefulUnpickler, Postponed, Resolver, load_pickles
from durus.persistent import PersistentObject
from durus.records.pickle_work import check_work, most_work

_registered: dict[Any, Any] = copyreg._inverted_registry  # type: ignore[attr-defined]  # these are not in the stubs
_found_before: dict[int, object] = copyreg._extension_cache  # type: ignore[attr-defined]
"""The names that a pickle can give by a number, and the objects already found for such numbers. [OBJ-104]"""

_NOT_MADE = (type, Enum, FunctionType, BuiltinFunctionType, MethodType, ModuleType, GenericAlias)
"""Types of objects that a pickle always finds and never makes; and aliases, which pass changes on to such objects."""
_LATIN_1 = ("latin1", "latin-1", "iso-8859-1")


class TrustingResolver(Resolver, Protocol):
    """Tells what the names that a record may contain stand for, and gives stand-ins for other names."""

    def find_trusted(self, module: str, name: str) -> Any:
        """Return what a name stands for, or a stand-in. [OBJ-100]"""

    def get_trusted(self, owner: object, name: str) -> Any:
        """Return the method or nested class that a record may name; UntrustedClassError for others. [OBJ-103]"""

    def refused_class(self, owner: object, name: str, error: BaseException) -> type[BrokenValue]:
        """Return the stand-in for what getattr(owner, name) would have been."""


class _Token:
    """Stands for a name in a state, and offers nothing that a step of a pickle could use."""

    __slots__ = ("__weakref__",)


_Names = dict[int, tuple[weakref.ref[_Token], str, str]]
"""The tokens and the names that they stand for, by id()."""


class _TokenUnpickler(pickle.Unpickler):
    """Reads plain values and references."""

    def __init__(self, file: io.BytesIO, resolver: TrustingResolver, names: _Names) -> None:
        super().__init__(file)
        self._resolver = resolver
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        token = _Token()
        self._names[id(token)] = weakref.ref(token), module, name
        return token

    def persistent_load(self, reference: object) -> PersistentObject:
        if type(reference) is tuple and len(reference) == 2 and type(reference[1]) is _Token:
            _, module, name = self._names[id(reference[1])]
            reference = reference[0], self._resolver.find_trusted(module, name)
        return self._resolver.get_referenced(reference)


class TrustingUnpickler(CarefulUnpickler):
    """Imports and calls only what its resolver allows, and changes only what it has made."""

    _reader: TrustingResolver

    def __init__(
        self,
        file: io.BytesIO,
        reader: TrustingResolver,
        owner: PersistentObject | None = None,
        postponed: list[Postponed] | None = None,
    ) -> None:
        super().__init__(file, reader, owner, postponed)
        self._may_encode = most_work(len(file.getbuffer()))
        self._found: dict[int, object] = {}
        """What was found by a name, by id(). The objects are kept here so that no other object gets the same id()."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        self._found[id(found)] = found
        return found

    def _look_up(self, module: str, name: str) -> Any:
        return self._reader.find_trusted(module, name)

    def get_extension(self, code: int) -> None:
        """Push what is registered under a number on the stack, found by its name. [OBJ-104]"""
        if code not in _registered:
            raise pickle.UnpicklingError(f"nothing is registered for the extension code {code}")
        self.append(self.find_class(*_registered[code]))  # type: ignore[attr-defined]  # not in the stubs

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        if isinstance(function, type) and issubclass(function, BrokenValue):
            match self._names.get(id(function)), arguments:
                case ("builtins" | "__builtin__", "getattr"), (owner, str() as name):
                    return self._get(owner, name)
                case ("_codecs", "encode"), (str() as text, encoding) if encoding in _LATIN_1:
                    self._may_encode -= len(text)
                    if self._may_encode < 0:
                        raise RecordError("its data makes too many bytes of the same text")
                    return text.encode("latin-1")
        return super()._call(function, arguments)

    def _get(self, owner: object, name: str) -> Any:
        """Do what a pickle calls getattr for: find a method, a nested class or a member of an enum. [OBJ-103]"""
        if isinstance(owner, BrokenValue) or (isinstance(owner, type) and issubclass(owner, BrokenValue)):
            return super()._call(getattr, (owner, name))
        try:
            found = self._reader.get_trusted(owner, name)
        except (UntrustedClassError, AttributeError) as error:
            part = self._reader.refused_class(owner, name, error)
            return part if isinstance(owner, type) else BrokenValue._p_of_call(part, getattr, (owner, name))
        self._found[id(found)] = found
        return found

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(CarefulUnpickler.dispatch)

    def _check_is_made(self, value: object) -> None:
        """Refuse to change what other code uses too: classes, functions, and what was found by a name. [OBJ-104]"""
        if id(value) in self._found or isinstance(value, _NOT_MADE):
            raise pickle.UnpicklingError(f"a step of it would change a {type(value).__name__} that it did not make")

    @classmethod
    def _guard_step(cls, code: bytes, find: Callable[["TrustingUnpickler"], object]) -> None:
        """Make a step check the object that it would change."""
        step = cls.dispatch[code[0]]

        def guarded(self: TrustingUnpickler) -> None:
            self._check_is_made(find(self))
            step(self)

        cls.dispatch[code[0]] = guarded

    metastack: list[list[Any]]


for _code, _depth in (pickle.BUILD, 2), (pickle.APPEND, 2), (pickle.SETITEM, 3):
    TrustingUnpickler._guard_step(_code, lambda self, depth=_depth: self.stack[-depth])  # type: ignore[misc]
for _code in (pickle.APPENDS, pickle.SETITEMS, pickle.ADDITEMS):
    TrustingUnpickler._guard_step(_code, lambda self: self.metastack[-1][-1])


def load_trusted_pickles(
    resolver: TrustingResolver, pickles: bytes, first_only: bool, state_start: int = 0
) -> tuple[Any, int]:
    """Do what load_pickles() does, with what is trusted, and refuse keys that are too large. [REC-34] [REC-35]"""
    check_work(pickles, first_only)
    if not (_registered or _found_before):  # the fast unpickler would use these without asking the resolver
        names: _Names = {}
        try:
            found = load_pickles(lambda file: _TokenUnpickler(file, resolver, names), pickles, first_only, state_start)
        except DurusError:
            raise
        except REFUSALS:
            pass  # the state may contain instances of classes
        else:
            if all(token() is None for token, _, _ in names.values()):
                return found
    return load_pickles(lambda file: TrustingUnpickler(file, resolver), pickles, first_only, state_start)
