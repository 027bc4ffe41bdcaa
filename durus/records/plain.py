"""Reads the data of a record as values that JSON has, without its classes. Statements EXP-1 to EXP-10.

A pickle is a program for a stack machine. This machine imports, makes and calls nothing that a record names: what the
steps make is kept as the form of it that spec/export.md gives. It is faster than PickleMachine, which keeps the places
of steps and no values; and C runs the usual pickles of states.
"""

import contextlib
import struct
from typing import TYPE_CHECKING, NamedTuple

from durus.error import RecordError
from durus.implementation import implementation
from durus.records.contents import split_data
from durus.records.pickle_machine import PickleMachine
from durus.records.pickle_work import check_work, fits
from durus.records.plain_forms import MAX_KEY, Form, NoFormError, Plain, class_text, to_json
from durus.records.plain_sharing import check_depth
from durus.records.plain_steps import STEPS, Context, append, float_form, reference, result, set_items
from durus.records.present_names import present_name
from durus.records.record import parse_class_pickle
from durus.records.stored_state import decompress_state

_USUAL_START = b"\x80\x04\x95"
"""The steps PROTO and FRAME, as most pickles begin; the length of the frame follows."""
_USUAL_START_SIZE = 11
_FEW_CONTAINERS = 50
"""This many can't be nested too deep."""


class PlainState(NamedTuple):
    """A class, as class_text() has it, and a state."""

    cls: str | tuple[str, str]
    state: Plain

    def json(self) -> str:
        """Return the state as JSON, in ASCII."""
        return to_json(self.state)


def read_plain(data: bytes) -> PlainState:
    """Return class and state in `data` of a record. [EXP-1]

    RecordError if it can't be read, and NoFormError if there is no form for what it has. [EXP-10]
    """
    known = parse_class_pickle(data)
    try:
        if known is not None and not known.has_memo:
            names = (known.module, known.name) if data[1] > 2 else present_name(known.module, known.name)
            cls = class_text(*names)
            pickled = decompress_state(data[known.end :])
            usual = usual_state(pickled, _KIT)
            if usual is not None:
                return PlainState(cls, usual)
            machine = _Machine(pickled)
        else:
            end = known.end if known is not None else _end_of_class(data)
            machine = _Machine(data[:end] + decompress_state(data[end:]))
            named = machine.load()
            if not (isinstance(named, Form) and "$class" in named):
                raise RecordError("its data has something else where a class is expected")
            cls = named["$class"]  # type: ignore[assignment]  # as class_text() made it
        state = machine.load()
        if machine.index != len(machine.pickles):
            raise RecordError("its data continues after the state")
        return PlainState(cls, machine.named(state))
    except RecordError:  # which is a ValueError
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        raise RecordError(f"its data can't be read: {type(error).__name__}: {error}") from error


_KIT = (Form, class_text, result, "$tuple", "$class", "$ref", "class", "$dict", "$set", "$frozenset")
"""What usual_state() takes."""


def usual_state(pickled: bytes, kit: tuple[object, ...]) -> Plain:
    """Return what the machine makes of a usual pickle; None if it must run itself. Without C, this is always so."""
    return None


if not TYPE_CHECKING and implementation == "C":
    from durus import _persistent

    usual_state = _persistent.usual_state
    fits = _persistent.fits


def check_plain(data: bytes) -> None:
    """Raise RecordError for data of a record that can't be loaded, whatever its classes do. [CMD-12]"""
    pickles = b"".join(split_data(data))
    if not fits(pickles, False):
        check_work(pickles, False)
    with contextlib.suppress(NoFormError):
        read_plain(data)


def _end_of_class(data: bytes) -> int:
    machine = PickleMachine(data)
    machine.load()
    return machine.index


class _Machine:
    """Runs consecutive pickles that share a memo."""

    def __init__(self, pickles: bytes) -> None:
        self.pickles = pickles
        self.index = 0
        self._context = Context(pickles)
        self._containers = 0

    def load(self) -> Plain:
        """Run the next pickle, and return its value."""
        pickles, context, index = self.pickles, self._context, self.index
        memo = context.memo
        stack: list[Plain] = []
        marks: list[int] = []
        containers = 0
        context.protocol = 0
        if pickles.startswith(_USUAL_START, index):
            context.protocol = 4
            index += _USUAL_START_SIZE
        value: Plain
        push = stack.append
        while True:
            code = pickles[index]
            index += 1
            if code == 0x8C:  # SHORT_BINUNICODE
                end = index + 1 + pickles[index]
                text = pickles[index + 1 : end]
                try:
                    value = text.decode()
                except UnicodeDecodeError:
                    value = text.decode("utf-8", "surrogatepass")
                push(value)
                index = end
                if pickles[index] == 0x94:  # MEMOIZE, as after every text that a pickler writes
                    memo[len(memo)] = value
                    index += 1
            elif code == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
            elif code == 0x4B:  # BININT1
                push(pickles[index])
                index += 1
            elif code == 0x68:  # BINGET
                value = memo[pickles[index]]
                if not (isinstance(value, str) and len(value) <= MAX_KEY):
                    context.note_fetched(value)
                push(value)
                index += 1
            elif code == 0x28:  # MARK
                marks.append(len(stack))
            elif code == 0x4E:  # NONE
                push(None)
            elif code == 0x75:  # SETITEMS
                start = marks.pop()
                set_items(stack[start - 1 if start else start], stack[start:])
                del stack[start:]
            elif code == 0x7D:  # EMPTY_DICT
                push({})
                containers += 1
            elif code == 0x86:  # TUPLE2
                stack[-2:] = [Form({"$tuple": stack[-2:]})]
                containers += 1
            elif code == 0x51:  # BINPERSID
                push(reference(stack.pop()))
            elif code == 0x43:  # SHORT_BINBYTES
                end = index + 1 + pickles[index]
                push(pickles[index + 1 : end])
                index = end
            elif code == 0x93:  # STACK_GLOBAL
                qualname, module = stack.pop(), stack.pop()
                push(context.name(module, qualname))
            elif code == 0x4D:  # BININT2
                push(pickles[index] + (pickles[index + 1] << 8))
                index += 2
            elif code == 0x4A:  # BININT
                push(int.from_bytes(pickles[index : index + 4], "little", signed=True))
                index += 4
            elif code == 0x47:  # BINFLOAT
                push(float_form(struct.unpack_from(">d", pickles, index)[0]))
                index += 8
            elif code == 0x73:  # SETITEM
                pair = stack[-2:]
                del stack[-2:]
                set_items(stack[-1], pair)
            elif code == 0x65:  # APPENDS
                start = marks.pop()
                append(stack[start - 1 if start else start], stack[start:])
                del stack[start:]
            elif code == 0x61:  # APPEND
                item = stack.pop()
                append(stack[-1], [item])
            elif code == 0x5D:  # EMPTY_LIST
                push([])
                containers += 1
            elif code == 0x88 or code == 0x89:  # NEWTRUE, NEWFALSE
                push(code == 0x88)
            elif code == 0x58:  # BINUNICODE
                end = index + 4 + int.from_bytes(pickles[index : index + 4], "little")
                push(str(pickles[index + 4 : end], "utf-8", "surrogatepass"))
                index = end
            elif code == 0x95:  # FRAME
                index += 8
            elif code == 0x80:  # PROTO
                context.protocol = pickles[index]
                index += 1
            elif code == 0x2E:  # STOP
                break
            else:
                containers += 1
                index = STEPS[code](context, stack, marks, index)
        if len(stack) != 1 or marks or index > len(pickles):
            raise RecordError("its pickle ends before it has made its value")
        self.index = index
        self._containers += containers
        return stack[0]

    def named(self, state: Plain) -> Plain:
        """Return the state with numbers for shared values; RecordError if it is nested too deep. [EXP-9] [EXP-10]"""
        state = self._context.shared.number(state)
        if self._containers > _FEW_CONTAINERS:
            check_depth(state)
        return state
