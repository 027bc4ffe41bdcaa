"""The data of a record with other class paths and other oids, and otherwise as it was. Statements REC-20 to REC-23.

Nothing that a pickle names is imported or run.  A pickle has no jumps: so the n-th operation in it that
names a class is the n-th name that a reading comes upon, and the same holds for references.  What is
changed is changed in place, or behind it: memo entries keep their numbers and their values.
"""

import pickletools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from durus.error import RecordError
from durus.serialize import compress_state
from durus.stand_in import read_contents, split_data

Rename = Callable[[str, str], tuple[str, str]]
"""Takes module and qualified name of a class, and returns the two that are to stand in their place."""

Renumber = Callable[[bytes], bytes]
"""Takes the oid of a reference, and returns the one that is to stand in its place."""

_PROTO, _FRAME, _MEMOIZE, _MARK, _POP = 0x80, 0x95, 0x94, ord("("), ord("0")
_GLOBAL, _INST, _STACK_GLOBAL = ord("c"), ord("i"), 0x93
_PAIRS = frozenset((0x86, ord("t")))
"""TUPLE2, and TUPLE: a reference is known to be a pair."""
_BINPERSID = ord("Q")
_SHORT_BINBYTES = b"C\x08"
_PUTS = frozenset(b"pqr") | {_MEMOIZE}
_GETS = frozenset(b"ghj")
_EXTENSIONS = frozenset((0x82, 0x83, 0x84))
_NESTED_NAMES_FROM = 4
"""The first protocol whose GLOBAL takes a nested class."""

_TAKEN_FROM_ARGUMENT = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


class _Kind(NamedTuple):
    """What an operation of the pickle machine does to its stack, and how long its argument is."""

    argument_size: int
    """In bytes, or one of the negative numbers of pickletools."""
    pops: int
    """Behind what it pops up to the mark, if it does that."""
    pops_to_mark: bool
    pushes: int


def _kind(opcode: pickletools.OpcodeInfo) -> _Kind:
    pops_to_mark = pickletools.markobject in opcode.stack_before
    pops = opcode.stack_before.index(pickletools.markobject) if pops_to_mark else len(opcode.stack_before)
    return _Kind(opcode.arg.n if opcode.arg else 0, pops, pops_to_mark, len(opcode.stack_after))


_KINDS = {ord(opcode.code): _kind(opcode) for opcode in pickletools.opcodes}


class _Operation(NamedTuple):
    code: int
    start: int
    end: int


class _Reference(NamedTuple):
    """Where the parts of a reference stand: the operations that make its oid, and behind them those of its class."""

    oid_start: int
    class_start: int


class _Edit(NamedTuple):
    start: int
    end: int
    new: bytes


def rename_classes(data: bytes, rename: Rename) -> bytes:
    """Return `data` with other class paths. [REC-20] RecordError if it can't be read, or can't hold the new ones."""
    names = read_contents(data).names
    new = [rename(*name) for name in names]
    if new == names:
        return data
    script = _Script(data)
    return script.edited(script.name_edits(names, new))


def renumber_references(data: bytes, renumber: Renumber) -> bytes:
    """Return `data` with other oids in its references. [REC-21] RecordError if it can't be read."""
    references = read_contents(data).references
    if not references:
        return data
    script = _Script(data)
    return script.edited(script.reference_edits([renumber(oid) for oid in references]))


class _Script:
    """The operations of two pickles that were read before, as far as it takes to change names and references."""

    def __init__(self, data: bytes) -> None:
        class_pickle, state_pickle = split_data(data)
        self._pickles = class_pickle + state_pickle
        self._state_start = len(class_pickle)
        self._namings: list[tuple[_Operation, int]] = []
        """The operations that name a class, each with the protocol of its pickle."""
        self._references: list[_Reference | None] = []
        """None for one that is not made right ahead of its use."""
        self._operations: dict[int, _Operation] = {}
        """By where they start."""
        self._fetched: set[int] = set()
        """The memo entries that are used."""
        self._put_as: dict[int, set[int]] = {}
        """The memo entries of the values whose making begins at a place."""
        self._memo: set[int] = set()
        self._frames: list[_Edit] = []
        self._run()

    def _run(self) -> None:
        stack: list[int] = []
        """Where the operations begin that made each value."""
        marks: list[tuple[int, int]] = []
        pair: _Reference | None = None
        protocol = 0
        for operation in _operations(self._pickles):
            code, start, _ = operation
            self._operations[start] = operation
            if code in _PUTS:
                self._note_put(operation, stack[-1])
                continue
            if code in _GETS:
                self._fetched.add(self._memo_key(operation))
            elif code == _PROTO:
                protocol = self._pickles[start + 1]
            elif code == _FRAME:
                self._frames.append(_Edit(start, operation.end, b""))
            elif code in (_GLOBAL, _INST, _STACK_GLOBAL):
                self._namings.append((operation, protocol))
            elif code in _EXTENSIONS:
                raise RecordError("its data names a class by an extension code, which only its own program can read")
            elif code == _MARK:
                marks.append((len(stack), start))
                continue
            elif code == _POP and marks and marks[-1][0] == len(stack):
                marks.pop()
                continue
            elif code == _BINPERSID:
                self._references.append(pair)
            pair = _Reference(*stack[-2:]) if code in _PAIRS and len(stack) >= 2 else None
            kind = _KINDS[code]
            if kind.pops_to_mark:
                height, begin = marks.pop()
                del stack[height:]
            else:
                begin = start
            if kind.pops:
                begin = stack[-kind.pops]
                del stack[-kind.pops :]
            stack += [begin, start][: kind.pushes]

    def _note_put(self, operation: _Operation, value_start: int) -> None:
        key = len(self._memo) if operation.code == _MEMOIZE else self._memo_key(operation)
        self._memo.add(key)
        self._put_as.setdefault(value_start, set()).add(key)

    def _memo_key(self, operation: _Operation) -> int:
        argument = self._pickles[operation.start + 1 : operation.end]
        return int(argument) if operation.code in b"pg" else int.from_bytes(argument, "little")

    def edited(self, edits: Iterable[_Edit]) -> bytes:
        """Return the data with these edits, and without the frames, whose lengths are others then."""
        all_edits = sorted([*edits, *self._frames])
        of_class = [edit for edit in all_edits if edit.start < self._state_start]
        new_class = self._edited(0, self._state_start, of_class)
        new_state = self._edited(self._state_start, len(self._pickles), all_edits[len(of_class) :])
        return new_class + compress_state(new_state)

    def _edited(self, start: int, end: int, edits: list[_Edit]) -> bytes:
        parts = []
        for edit in edits:
            parts += [self._pickles[start : edit.start], edit.new]
            start = edit.end
        return b"".join([*parts, self._pickles[start:end]])

    def name_edits(self, old: list[tuple[str, str]], new: list[tuple[str, str]]) -> Iterator[_Edit]:
        """Yield what puts the new names in the place of the old ones; both are in the order of the pickles."""
        for (operation, protocol), old_name, new_name in zip(self._namings, old, new, strict=True):
            if new_name == old_name:
                continue
            module, name = new_name
            if "." in name and protocol < _NESTED_NAMES_FROM:
                raise RecordError(
                    f"its pickle of protocol {protocol} can't name the nested class {name!r} of {module!r}"
                )
            lines = f"{module}\n{name}\n".encode()
            if operation.code == _STACK_GLOBAL:  # takes two strings, which may be used elsewhere, too
                yield _Edit(operation.start, operation.end, b"00c" + lines)
            else:
                yield _Edit(operation.start + 1, operation.end, lines)

    def reference_edits(self, oids: list[bytes]) -> Iterator[_Edit]:
        """Yield what puts these oids into the references, which both are in the order of the pickles."""
        for reference, oid in zip(self._references, oids, strict=True):
            if reference is None:
                raise RecordError("a reference in its data is made elsewhere than it is used, so it can't be changed")
            first = self._operations[reference.oid_start]
            is_used_elsewhere = self._put_as.get(first.start, set()) & self._fetched
            if self._pickles.startswith(_SHORT_BINBYTES, first.start) and not is_used_elsewhere:
                yield _Edit(first.start, first.end, _SHORT_BINBYTES + oid)
            else:  # put the new oid in its place when it is there
                yield _Edit(reference.class_start, reference.class_start, b"0" + _SHORT_BINBYTES + oid)


def _operations(pickles: bytes) -> Iterator[_Operation]:
    position = 0
    while position < len(pickles):
        end = _argument_end(pickles, position)
        yield _Operation(pickles[position], position, end)
        position = end


def _argument_end(pickles: bytes, start: int) -> int:
    code = pickles[start]
    size = _KINDS[code].argument_size
    if size >= 0:
        return start + 1 + size
    if size == pickletools.UP_TO_NEWLINE:
        end = pickles.index(b"\n", start) + 1
        return pickles.index(b"\n", end) + 1 if code in (_GLOBAL, _INST) else end
    count_end = start + 1 + _TAKEN_FROM_ARGUMENT[size]
    return count_end + int.from_bytes(pickles[start + 1 : count_end], "little")
