"""Follows the steps of pickles without importing, creating or running anything that they name.

A pickle is a program for a stack machine, without jumps. The machine here keeps only names, oids and references, with
the places where they are created; of any other value it keeps only the place. So no pickle can make it slow or large:
time and memory are proportional to the length of the pickle.
"""

import pickletools
from collections.abc import Iterator
from pickle import HIGHEST_PROTOCOL
from typing import NamedTuple, TypeAlias

from durus.error import RecordError

_OID_SIZE = 8
_ENCODED_OID_SIZE = 5 + 2 * _OID_SIZE
"""The bytes of a BINUNICODE step that holds an oid, of at most two bytes a character."""

_PROTO, FRAME, STOP, MARK, POP, DUP = 0x80, 0x95, ord("."), ord("("), ord("0"), ord("2")
MEMOIZE, _TEXT_PUT, _TEXT_GET = 0x94, ord("p"), ord("g")
GLOBAL, INST, STACK_GLOBAL, REDUCE = ord("c"), ord("i"), 0x93, ord("R")
_UNICODE, _STRING, _BINARY_STRINGS = ord("V"), ord("S"), frozenset(b"TU")
_BINPERSID = ord("Q")
TUPLES = frozenset((0x85, 0x86, ord("t")))
PUTS = frozenset(b"pqr") | {MEMOIZE}
GETS = frozenset(b"ghj")
_REFUSED = {ord("P"): "PERSID", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER"}
"""Steps that a reader of records can't execute."""

_BUILTINS = ("builtins", "__builtin__")
MAX_NAME = 1000
"""In bytes. A pickle could repeat a longer name endlessly, at a few bytes each time."""


MEMO_ANY_MAY_HAVE = 1 << 16
"""The number of memo entries that every pickle may have: they take 1 MiB. [REC-33]"""


class Step(NamedTuple):
    """One operation, and its first and its last byte."""

    code: int
    start: int
    end: int


class Name(NamedTuple):
    """The name of a class or a function."""

    module: str
    qualname: str


class Value(NamedTuple):
    """A value on the stack: where the steps that create it begin, and the part of it that matters."""

    start: int
    known: "Known"


class Group:
    """A tuple of one or two values."""

    def __init__(self, values: list[Value]) -> None:
        self.values = values


Known: TypeAlias = Step | Name | bytes | Group | None
"""The step that creates a text or bytes, a name, the bytes that a call creates, a short tuple; otherwise None."""


class Naming(NamedTuple):
    """A step that names a class or a function, in a pickle of this protocol."""

    step: Step
    protocol: int
    name: Name
    owner: Name | None
    """The class that a nested one is taken from, where the step is a call of getattr."""


class Reference(NamedTuple):
    """A reference, and the value in its pair that is the oid."""

    oid: bytes
    oid_value: Value
    class_start: int
    is_pair_made_here: bool
    """True if the pair is created right before its use, first the oid and then the class."""
    cls: Name


class Kind(NamedTuple):
    """The effect of a step on the stack, and the size of its argument."""

    argument_size: int
    """In bytes, or one of the negative numbers of pickletools."""
    pops: int
    """After the values that it pops up to the mark, if it does."""
    pops_to_mark: bool
    pushes: int
    is_text: bool
    is_bytes: bool


def _kind(opcode: pickletools.OpcodeInfo) -> Kind:
    pops_to_mark = pickletools.markobject in opcode.stack_before
    pops = opcode.stack_before.index(pickletools.markobject) if pops_to_mark else len(opcode.stack_before)
    size = opcode.arg.n if opcode.arg else 0
    is_text = "UNICODE" in opcode.name or "STRING" in opcode.name
    is_bytes = opcode.name in ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
    return Kind(size, pops, pops_to_mark, len(opcode.stack_after), is_text, is_bytes)


KINDS = {ord(opcode.code): _kind(opcode) for opcode in pickletools.opcodes}

COUNT_SIZES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


def end_of_step(pickles: bytes, code: int, start: int) -> int:
    """Return where a step ends; RecordError if the pickle ends before."""
    kind = KINDS.get(code)
    if kind is None:
        raise RecordError(f"its data can't be read: {code:#04x} at byte {start} is not a step of a pickle")
    size = kind.argument_size
    if size >= 0:
        end = start + 1 + size
    elif size == pickletools.UP_TO_NEWLINE:
        end = start
        for _ in range(2 if code in (GLOBAL, INST) else 1):
            end = (pickles.find(b"\n", end) + 1) or len(pickles) + 1
    else:
        count_end = start + 1 + COUNT_SIZES[size]
        end = count_end + int.from_bytes(pickles[start + 1 : count_end], "little")
    if end > len(pickles):
        raise RecordError(f"its data can't be read: it ends inside the step at byte {start}")
    return end


def memo_number(pickles: bytes, code: int, start: int, end: int) -> int:
    """Return the number of the memo entry that a step uses; RecordError if it is too large. [REC-33]"""
    argument = pickles[start + 1 : end]
    number = int(argument) if code in (_TEXT_PUT, _TEXT_GET) else int.from_bytes(argument, "little")
    if not 0 <= number < max(MEMO_ANY_MAY_HAVE, len(pickles)):
        raise RecordError(
            f"its step at byte {start} uses the memo entry {number}, which is too high for a pickle of this size"
        )
    return number


class PickleMachine:
    """Reads consecutive pickles that share a memo, as those of a record may."""

    def __init__(self, pickles: bytes) -> None:
        self.pickles = pickles
        self.index = 0
        """Where the next pickle begins."""
        self.namings: list[Naming] = []
        self.references: list[Reference] = []
        self.methods: set[str] = set()
        """The names of methods and other attributes that are taken from objects by calls of getattr."""
        self.frames: list[Step] = []
        self._names: dict[Name, Name] = {}
        """One instance of each name, which is kept for all equal ones."""
        self.fetched: set[int] = set()
        """The starts of the values that are used more than once."""
        self.fetched_pairs: set[int] = set()
        """The starts of the first values in tuples that are."""
        self._memo: dict[int, Value] = {}
        self._stack: list[Value] = []
        self._marks: list[tuple[int, int]] = []
        """The height of the stack at each mark, and the offset of the step."""
        self._protocol = 0

    def load(self) -> Known:
        """Follow the next pickle to its end, and return what is known of its value.

        RecordError for something that records do not contain; other errors if it is not a pickle.
        """
        self._stack, self._marks, self._protocol = [], [], 0
        for step in self.steps():
            self._do(step)
        if self._marks or len(self._stack) != 1:
            raise RecordError("its pickle ends before it has made its value")
        return self._stack[0].known

    def steps(self) -> Iterator[Step]:
        """Yield the steps of the next pickle, up to its end, without following them."""
        code = None
        while code != STOP:
            start, code = self.index, self.pickles[self.index]
            self.index = end_of_step(self.pickles, code, start)
            yield Step(code, start, self.index)

    def _do(self, step: Step) -> None:
        code = step.code
        if code in PUTS:
            self._memo[len(self._memo) if code == MEMOIZE else memo_number(self.pickles, *step)] = self._stack[-1]
        elif code in GETS:
            self._use_again(self._memo[memo_number(self.pickles, *step)], step)
        elif code == MARK:
            self._marks.append((len(self._stack), step.start))
        elif code == POP and self._marks and self._marks[-1][0] == len(self._stack):
            self._marks.pop()
        elif code == DUP:
            self._use_again(self._stack[-1], step)
        elif code == FRAME:
            self.frames.append(step)
        elif code == _PROTO:
            self._protocol = self.pickles[step.start + 1]
            if self._protocol > HIGHEST_PROTOCOL:
                raise RecordError(f"it has a pickle of protocol {self._protocol}")
        elif code in _REFUSED:
            raise RecordError(f"its data has a step that has no use in a record: {_REFUSED[code]}")
        elif code != STOP:
            self._replace(step)

    def _use_again(self, value: Value, step: Step) -> None:
        if isinstance(value.known, Group):
            self.fetched_pairs.add(value.known.values[0].start)
        self.fetched.add(value.start)
        self._stack.append(Value(step.start, value.known))

    def _replace(self, step: Step) -> None:
        """Pop what the step takes, and push what it creates."""
        kind = KINDS[step.code]
        start, taken = self._take(kind, step.start)
        if kind.pushes:
            self._stack.append(Value(start, self._made(step, kind, taken)))

    def _take(self, kind: Kind, start: int) -> tuple[int, list[Value]]:
        stack = self._stack
        taken: list[Value] = []
        if kind.pops_to_mark:
            height, start = self._marks.pop()
            taken = stack[height:]
            del stack[height:]
        if kind.pops:
            if len(stack) - kind.pops < (self._marks[-1][0] if self._marks else 0):
                raise RecordError("its data takes more from the stack than is there")
            taken = stack[-kind.pops :] + taken
            del stack[-kind.pops :]
            start = taken[0].start
        return start, taken

    def _made(self, step: Step, kind: Kind, taken: list[Value]) -> Known:
        """Return what is known of the value that a step creates from those that it takes."""
        code = step.code
        if kind.is_text:
            self._text(step)
        if kind.is_text or kind.is_bytes:
            return step
        if code in (GLOBAL, STACK_GLOBAL, INST):
            return self._note_name(step, self._name(step, taken), None)
        if code in TUPLES:
            return Group(taken) if 1 <= len(taken) <= 2 else None
        if code == REDUCE and isinstance(taken[0].known, Name) and isinstance(taken[1].known, Group):
            return self._result(step, taken[0].known, taken[1].known)
        if code == _BINPERSID:
            self._refer(taken[0])
        return None

    def _note_name(self, step: Step, name: Name, owner: Name | None) -> Name | None:
        name = self._names.setdefault(name, name)
        self.namings.append(Naming(step, self._protocol, name, owner))
        return None if step.code == INST else name

    def _name(self, step: Step, taken: list[Value]) -> Name:
        if step.code == STACK_GLOBAL:
            module, qualname = (self._name_text(value.known) for value in taken)
        else:
            self._check_name(step)
            module, qualname = self.pickles[step.start + 1 : step.end - 1].decode().split("\n")
        return Name(module, qualname)

    def _name_text(self, known: Known) -> str:
        """Return the text that a step creates for a name."""
        if not (isinstance(known, Step) and KINDS[known.code].is_text):
            raise RecordError("its data has a class whose name is not text")
        self._check_name(known)
        return self._text(known)

    def _check_name(self, step: Step) -> None:
        if step.end - step.start > MAX_NAME:
            raise RecordError(f"its data has a name of {step.end - step.start} bytes at byte {step.start}")

    def _text(self, step: Step) -> str:
        """Return the text that a step creates."""
        argument = self._argument(step)
        if step.code == _UNICODE:
            return argument[:-1].decode("raw-unicode-escape")
        if step.code == _STRING:
            return argument.strip()[1:-1].decode("latin-1")
        if step.code in _BINARY_STRINGS:
            return argument.decode("latin-1")
        return argument.decode("utf-8", "surrogatepass")

    def _argument(self, step: Step) -> bytes:
        """Return the argument of a step, without its count."""
        count_size = COUNT_SIZES.get(KINDS[step.code].argument_size, 0)
        return self.pickles[step.start + 1 + count_size : step.end]

    def _result(self, step: Step, function: Name, arguments: Group) -> Known:
        """Return the result of a call if that can be the bytes of an oid, or a nested class."""
        match function, [value.known for value in arguments.values]:
            # What pickles of protocol 2 call to make bytes.
            case Name("_codecs", "encode"), [Step() as text, *_] if text.end - text.start <= _ENCODED_OID_SIZE:
                return self._text(text).encode("latin-1") if KINDS[text.code].is_text else None
            # What they call for a nested class.
            case Name(module, "getattr"), [Name() as owner, Step() as attribute] if module in _BUILTINS:
                qualname = f"{owner.qualname}.{self._name_text(attribute)}"
                if len(qualname) > MAX_NAME:
                    raise RecordError(f"its data has a name of {len(qualname)} characters at byte {step.start}")
                return self._note_name(step, Name(owner.module, qualname), owner)
            # And for a method of an object.
            case Name(module, "getattr"), [_, Step() as attribute] if module in _BUILTINS:
                if KINDS[attribute.code].is_text and attribute.end - attribute.start <= MAX_NAME:
                    self.methods.add(self._text(attribute))
        return None

    def _refer(self, reference: Value) -> None:
        if isinstance(reference.known, Group):
            match reference.known.values:
                case [oid, Value(start, Name() as cls)]:
                    oid_bytes = self._bytes(oid.known)
                    if oid_bytes is not None and len(oid_bytes) == _OID_SIZE:
                        is_made_here = reference.start <= oid.start < start
                        self.references.append(Reference(oid_bytes, oid, start, is_made_here, cls))
                        return
        raise RecordError("a reference must be a pair of 8-byte oid and class, and one in its data is not")

    def _bytes(self, known: Known) -> bytes | None:
        if isinstance(known, Step) and KINDS[known.code].is_bytes:
            return self._argument(known)
        return known if isinstance(known, bytes) else None
