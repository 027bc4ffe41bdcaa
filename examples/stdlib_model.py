"""The persistent classes of stdlib_graph.py, in a module of their own so that every process can import them."""

from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList


class Definition(Persistent):
    """Something that a module defines; `outer` is what it is in."""

    def __init__(self, name: str, line: int, outer: "Module | Definition") -> None:
        self.name = name
        self.line = line
        self.outer = outer
        self.functions: list[Function] = []
        self.classes: list[Class] = []


class Function(Definition):
    """A function or method."""

    def __init__(self, name: str, line: int, outer: "Module | Definition", length: int) -> None:
        super().__init__(name, line, outer)
        self.length = length


class Class(Definition):
    """A class."""

    bases: tuple[str, ...] = ()


class Module(Persistent):
    """A module; `imports` and `imported_by` lead to other modules, in cycles too."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.length = 0
        self.functions: list[Function] = []
        self.classes: list[Class] = []
        self.imports: PersistentDict[str, Module] = PersistentDict()
        self.imported_by: PersistentList[Module] = PersistentList()
