"""Reads the data of a record as values that JSON has, without its classes. Statements EXP-1 to EXP-10.

A pickle is a program for a stack machine. This machine imports, makes and calls nothing that a record names: what the
steps make is kept as the form of it that spec/export.md gives. It is faster than PickleMachine, which keeps the places
of steps and no values.
"""

import math
import struct
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from durus.error import RecordError
from durus.records.pickle_machine import PickleMachine
from durus.records.plain_calls import value_of_call
from durus.records.plain_forms import MAX_DEPTH, MAX_KEY, Form, Plain, children, class_text, to_json
from durus.records.present_names import present_name
from durus.records.record import parse_class_pickle
from durus.records.stored_state import decompress_state

_MAX_PLAIN = 1 << 53
_MAX_DECIMAL = 1 << 1024
_NAMES_PER_BYTE = 16
_FREE_NAMES = 1 << 20
"""So many characters of long names may come from a byte, and from none. [EXP-10]"""
_USUAL_START = b"\x80\x04\x95"
"""The steps PROTO and FRAME, as most pickles begin; the length of the frame follows."""
_USUAL_START_SIZE = 11
_FEW_CONTAINERS = 50
"""So many can't be nested too deep."""


class PlainState(NamedTuple):
    """A class, as class_text() has it, and a state."""

    cls: str | tuple[str, str]
    state: Plain

    def json(self) -> str:
        """Return the state as JSON, in ASCII."""
        return to_json(self.state)


def read_plain(data: bytes) -> PlainState:
    """Return class and state in `data` of a record. [EXP-1] RecordError if there is no form for them. [EXP-10]"""
    known = parse_class_pickle(data)
    try:
        if known is not None and not known.has_memo:
            names = (known.module, known.name) if data[1] > 2 else present_name(known.module, known.name)
            cls = class_text(*names)
            machine = _Machine(decompress_state(data[known.end :]))
        else:
            end = known.end if known is not None else _end_of_class(data)
            machine = _Machine(data[:end] + decompress_state(data[end:]))
            named = machine.load()
            if not (isinstance(named, Form) and "$class" in named):
                raise RecordError("its data names something else where a class must stand")
            cls = named["$class"]  # type: ignore[assignment]  # as class_text() made it
        state = machine.load()
        if machine.position != len(machine.pickles):
            raise RecordError("its data goes on behind the state")
        return PlainState(cls, machine.named(state))
    except RecordError:  # which is a ValueError
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        raise RecordError(f"its data can't be read: {type(error).__name__}: {error}") from error


def _end_of_class(data: bytes) -> int:
    machine = PickleMachine(data)
    machine.load()
    return machine.position


_SHAREABLE = frozenset(("$tuple", "$set", "$frozenset", "$call", "$new"))
_GROWING = ("$call", "$new")


def _is_shareable(value: Plain) -> bool:
    """Tell if a value that occurs twice in a state is written once. [EXP-9]"""
    kind = type(value)
    if kind is Form:
        key = next(iter(value))  # type: ignore[call-overload]  # mypy does not know that it is a Form
        return key in _SHAREABLE or (key == "$int" and len(value["$int"]) > MAX_KEY)  # type: ignore[index]
    if kind is str or kind is bytes:
        return len(value) > MAX_KEY  # type: ignore[arg-type]  # likewise
    return kind in (list, dict, bytearray)


class _Machine:
    """Runs consecutive pickles that share a memo."""

    def __init__(self, pickles: bytes) -> None:
        self.pickles = pickles
        self.position = 0
        self._memo: dict[int, Plain] = {}
        self._protocol = 0
        self._fetched: dict[int, Plain] = {}
        """By id(): the values that were used again and can be shared."""
        self._argument_tuples: dict[int, Form] = {}
        """By the id() of its list: a tuple that was used again."""
        self._containers = 0
        self._budget = _NAMES_PER_BYTE * len(pickles) + _FREE_NAMES
        """How many more characters of long names there may be."""

    def load(self) -> Plain:
        """Run the next pickle, and return its value."""
        pickles, memo, position = self.pickles, self._memo, self.position
        stack: list[Plain] = []
        marks: list[int] = []
        containers = 0
        self._protocol = 0
        if pickles.startswith(_USUAL_START, position):
            self._protocol = 4
            position += _USUAL_START_SIZE
        value: Plain
        push = stack.append
        while True:
            code = pickles[position]
            position += 1
            if code == 0x8C:  # SHORT_BINUNICODE
                end = position + 1 + pickles[position]
                text = pickles[position + 1 : end]
                try:
                    value = text.decode()
                except UnicodeDecodeError:
                    value = text.decode("utf-8", "surrogatepass")
                push(value)
                position = end
                if pickles[position] == 0x94:  # MEMOIZE, as after every text that a pickler writes
                    memo[len(memo)] = value
                    position += 1
            elif code == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
            elif code == 0x4B:  # BININT1
                push(pickles[position])
                position += 1
            elif code == 0x68:  # BINGET
                value = memo[pickles[position]]
                if not (isinstance(value, str) and len(value) <= MAX_KEY):
                    self._note_fetched(value)
                push(value)
                position += 1
            elif code == 0x28:  # MARK
                marks.append(len(stack))
            elif code == 0x4E:  # NONE
                push(None)
            elif code == 0x75:  # SETITEMS
                start = marks.pop()
                self._set_items(stack[start - 1 if start else start], stack[start:])
                del stack[start:]
            elif code == 0x7D:  # EMPTY_DICT
                push({})
                containers += 1
            elif code == 0x86:  # TUPLE2
                stack[-2:] = [Form({"$tuple": stack[-2:]})]
                containers += 1
            elif code == 0x51:  # BINPERSID
                push(self._reference(stack.pop()))
            elif code == 0x43:  # SHORT_BINBYTES
                end = position + 1 + pickles[position]
                push(pickles[position + 1 : end])
                position = end
            elif code == 0x93:  # STACK_GLOBAL
                qualname, module = stack.pop(), stack.pop()
                push(self._name(module, qualname))
            elif code == 0x4D:  # BININT2
                push(pickles[position] + (pickles[position + 1] << 8))
                position += 2
            elif code == 0x4A:  # BININT
                push(int.from_bytes(pickles[position : position + 4], "little", signed=True))
                position += 4
            elif code == 0x47:  # BINFLOAT
                push(_float_form(struct.unpack_from(">d", pickles, position)[0]))
                position += 8
            elif code == 0x73:  # SETITEM
                pair = stack[-2:]
                del stack[-2:]
                self._set_items(stack[-1], pair)
            elif code == 0x65:  # APPENDS
                start = marks.pop()
                _append(stack[start - 1 if start else start], stack[start:])
                del stack[start:]
            elif code == 0x61:  # APPEND
                item = stack.pop()
                _append(stack[-1], [item])
            elif code == 0x5D:  # EMPTY_LIST
                push([])
                containers += 1
            elif code == 0x88 or code == 0x89:  # NEWTRUE, NEWFALSE
                push(code == 0x88)
            elif code == 0x58:  # BINUNICODE
                end = position + 4 + int.from_bytes(pickles[position : position + 4], "little")
                push(str(pickles[position + 4 : end], "utf-8", "surrogatepass"))
                position = end
            elif code == 0x95:  # FRAME
                position += 8
            elif code == 0x80:  # PROTO
                self._protocol = pickles[position]
                position += 1
            elif code == 0x2E:  # STOP
                break
            else:
                containers += 1
                position = _OTHERS[code](self, stack, marks, position)
        if len(stack) != 1 or marks or position > len(pickles):
            raise RecordError("its pickle ends before it has made its value")
        self.position = position
        self._containers += containers
        return stack[0]

    def named(self, state: Plain) -> Plain:
        """Return the state with numbers for shared values; RecordError if it is nested too deep. [EXP-9] [EXP-10]"""
        if self._fetched:
            state = self._number(state)
        if self._containers > _FEW_CONTAINERS:
            _check_depth(state)
        return state

    # Shared values

    def _note_fetched(self, value: Plain) -> None:
        if type(value) is Form and "$class" in value:
            self._spend(value)
        elif _is_shareable(value):
            self._fetched[id(value)] = value
            if type(value) is Form and "$tuple" in value:
                self._argument_tuples[id(value["$tuple"])] = value

    def _part(self, key: str | int, part: Plain) -> Plain:
        """Return a part of a value, where arguments are the tuple that they were taken from."""
        return self._argument_tuples.get(id(part), part) if key == "args" else part

    def _number(self, state: Plain) -> Plain:
        """Give a number to each value that occurs more than once, in the order of their first occurrences."""
        counts = dict.fromkeys(self._fetched, 0)
        pending = [state]
        while pending:
            value = pending.pop()
            if id(value) in counts:
                counts[id(value)] += 1
                if counts[id(value)] > 1:
                    continue
            pending += [self._part(key, part) for key, part in children(value)]
        shared = {each for each, count in counts.items() if count > 1}
        if not shared:
            return state
        numbers: dict[int, int] = {}
        holder: list[Plain] = [state]
        slots: list[tuple[list[Plain] | dict[str, Plain], str | int]] = [(holder, 0)]
        while slots:
            container, key = slots.pop()
            value = container[key]  # type: ignore[index]  # it is a key of this container
            whole = self._part(key, value)
            if id(whole) in shared:
                value = whole
                number = numbers.get(id(value))
                new = Form({"$same": number})
                if number is None:
                    number = numbers[id(value)] = len(numbers) + 1
                    new = Form({"$id": number, "$value": value})
                container[key] = new  # type: ignore[index]  # likewise
                if "$same" in new:
                    continue
            slots += [(value, each) for each, _ in reversed(list(children(value)))]  # type: ignore[misc]
        return holder[0]

    # Steps

    def _set_items(self, target: Plain, parts: list[Plain]) -> None:
        if type(target) is not dict:
            if not (type(target) is Form and next(iter(target)) in _GROWING):
                raise RecordError("its data sets an item where none can be set")
            _grow(target, "pairs", [parts[at : at + 2] for at in range(0, len(parts), 2)])
            return
        if len(parts) % 2:
            raise RecordError("its data sets a key without a value")
        odd = "$dict" in target
        for at in range(0, len(parts), 2):
            key = parts[at]
            if not odd:
                if type(key) is str and key[:1] != "$" and len(key) <= MAX_KEY:
                    target[key] = parts[at + 1]
                    continue
                pairs = [[each, value] for each, value in target.items()]
                target.clear()
                target["$dict"] = pairs
                odd = True
            target["$dict"].append([key, parts[at + 1]])

    def _name(self, module: Plain, qualname: Plain) -> Form:
        if type(module) is not str or type(qualname) is not str:
            raise RecordError("its data has a class whose name is no text")
        names = present_name(module, qualname) if self._protocol <= 2 else (module, qualname)
        named = Form({"$class": class_text(*names)})
        self._spend(named)
        return named

    def _spend(self, named: Form) -> None:
        """Count the characters of a long name, which few bytes can repeat endlessly. [EXP-10]"""
        name = named["$class"]
        size = len(name) if isinstance(name, str) else len(str(name))
        if size > MAX_KEY:
            self._budget -= size
            if self._budget < 0:
                raise RecordError("its data repeats long names too often")

    def _reference(self, pair: Plain) -> Form:
        match pair:
            case {"$tuple": [bytes() as oid, {"$class": cls}]} if len(oid) == 8:
                return Form({"$ref": int.from_bytes(oid, "big"), "class": cls})
        raise RecordError("a reference must be a pair of 8-byte oid and class, and one in its data is not")


def _float_form(value: float) -> Plain:
    if math.isfinite(value):
        return value
    if math.isinf(value):
        return Form({"$float": "inf" if value > 0 else "-inf"})
    bits = struct.pack(">d", value).hex()
    return Form({"$float": "nan" if bits == _NAN else bits})


_NAN = struct.pack(">d", math.nan).hex()


def _int_form(value: int) -> Plain:
    if -_MAX_PLAIN < value < _MAX_PLAIN:
        return value
    return Form({"$int": str(value) if -_MAX_DECIMAL < value < _MAX_DECIMAL else hex(value)})


def _append(target: Plain, items: list[Plain]) -> None:
    if type(target) is list:
        target += items
    elif type(target) is Form and next(iter(target)) in _GROWING:
        _grow(target, "items", items)
    else:
        raise RecordError("its data appends to something else than a list")


def _grow(target: Form, key: str, parts: list[Plain]) -> None:
    """Add what is appended or set to an instance; the keys of its form have the order of the steps. [EXP-6]"""
    last = next(reversed(target))
    if key not in target:
        target[key] = parts
    elif last == key and key != "state":
        target[key] += parts  # type: ignore[operator]  # a list, as it was made
    else:
        raise RecordError(f"its data changes {key} of an instance in an order that has no form")


def _check_depth(state: Plain) -> None:
    depth, level = 0, [state]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise RecordError(f"its state is nested more than {MAX_DEPTH} levels deep")
        level = [part for value in level for _, part in children(value) if isinstance(part, list | dict)]


# The steps that usual states do not have


def _sized(size: int, make: Callable[[_Machine, bytes], Plain]) -> "_Step":
    def step(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
        start = position + size
        end = start + int.from_bytes(machine.pickles[position:start], "little")
        if end > len(machine.pickles):
            raise RecordError(f"its pickle ends inside the step at byte {position - 1}")
        stack.append(make(machine, machine.pickles[start:end]))
        return end

    return step


def _line(make: Callable[[bytes], Plain]) -> "_Step":
    def step(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
        end = machine.pickles.index(b"\n", position)
        stack.append(make(machine.pickles[position:end]))
        return end + 1

    return step


def _tuple(size: int) -> "_Step":
    def step(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
        parts = stack[-size:]
        if len(parts) < size:
            raise RecordError("its data takes more from the stack than is there")
        stack[-size:] = [Form({"$tuple": parts})]
        return position

    return step


def _gathering(make: Callable[[_Machine, list[Plain]], Plain]) -> "_Step":
    def step(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
        start = marks.pop()
        stack[start:] = [make(machine, stack[start:])]
        return position

    return step


def _get(size: int) -> "_Step":
    def step(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
        end = position + size if size else machine.pickles.index(b"\n", position)
        argument = machine.pickles[position:end]
        value = machine._memo[int.from_bytes(argument, "little") if size else int(argument)]
        machine._note_fetched(value)
        stack.append(value)
        return end if size else end + 1

    return step


def _put(size: int) -> "_Step":
    def step(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
        end = position + size if size else machine.pickles.index(b"\n", position)
        argument = machine.pickles[position:end]
        machine._memo[int.from_bytes(argument, "little") if size else int(argument)] = stack[-1]
        return end if size else end + 1

    return step


def _pop(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
    if marks and marks[-1] == len(stack):
        marks.pop()
    else:
        stack.pop()
    return position


def _pop_mark(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
    del stack[marks.pop() :]
    return position


def _dup(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
    machine._note_fetched(stack[-1])
    stack.append(stack[-1])
    return position


def _push(make: Callable[[], Plain]) -> "_Step":
    def step(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
        stack.append(make())
        return position

    return step


def _global(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
    middle = machine.pickles.index(b"\n", position)
    end = machine.pickles.index(b"\n", middle + 1)
    stack.append(
        machine._name(str(machine.pickles[position:middle], "utf-8"), str(machine.pickles[middle + 1 : end], "utf-8"))
    )
    return end + 1


def _inst(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
    end = _global(machine, stack, marks, position)
    cls = stack.pop()
    start = marks.pop()
    stack[start:] = [_instance(cls, stack[start:])]
    return end


def _instance(cls: Plain, arguments: list[Plain]) -> Plain:
    """Return what the steps INST and OBJ make: without arguments, a class is not called."""
    return _made("$call" if arguments else "$new", cls, Form({"$tuple": arguments}))


def _reduce(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
    arguments = stack.pop()
    stack[-1] = _result(stack[-1], arguments)
    return position


def _new(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
    arguments = stack.pop()
    stack[-1] = _made("$new", stack[-1], arguments)
    return position


def _new_ex(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
    kwargs, arguments = stack.pop(), stack.pop()
    made = stack[-1] = _made("$new", stack[-1], arguments)
    made["kwargs"] = kwargs
    return position


def _made(how: str, function: Plain, arguments: Plain) -> Form:
    made = Form({how: function["$class"] if type(function) is Form and "$class" in function else function})
    if not (type(arguments) is Form and "$tuple" in arguments):
        raise RecordError("its data calls something with arguments that are no tuple")
    if arguments["$tuple"]:
        made["args"] = arguments["$tuple"]
    return made


def _build(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
    state = stack.pop()
    target = stack[-1]
    if not (type(target) is Form and next(iter(target)) in _GROWING):
        raise RecordError("its data gives a state to something that has none")
    match target, state:
        case {"$new": "uuid:UUID"}, {"int": number} if len(target) == 1 and type(state) is dict and len(state) == 1:
            if type(number) is Form and "$int" in number:
                number = int(number["$int"])  # type: ignore[call-overload]  # a str, as it was made
            if type(number) is int and 0 <= number < 1 << 128:
                text = f"{number:032x}"
                target.clear()
                target["$uuid"] = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
                return position
    _grow(target, "state", state)  # type: ignore[arg-type]  # a state is stored as it is
    return position


def _add_items(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
    start = marks.pop()
    match stack[start - 1 if start else start]:
        case {"$set": list() as items}:
            items += stack[start:]
        case _:
            raise RecordError("its data adds items to something else than a set")
    del stack[start:]
    return position


def _refuse(name: str) -> "_Step":
    def step(machine: _Machine, stack: list[Plain], marks: list[int], position: int) -> int:
        raise RecordError(f"its data has a step that is of no use in a record: {name}")

    return step


def _decoded_line(line: bytes) -> str:
    return str(line, "raw-unicode-escape")


def _quoted(line: bytes) -> str:
    return str(line.strip()[1:-1], "ascii")


def _int_line(line: bytes) -> Plain:
    return _int_form(int(line.rstrip(b"L"))) if line not in (b"00", b"01") else line == b"01"


def _dict_of(machine: _Machine, parts: list[Plain]) -> Plain:
    made: dict[str, Plain] = {}
    machine._set_items(made, parts)
    return made


_Step: TypeAlias = Callable[[_Machine, list[Plain], list[int], int], int]
_OTHERS: dict[int, _Step] = {
    0x30: _pop,
    0x31: _pop_mark,
    0x32: _dup,
    0x46: _line(lambda line: _float_form(float(line))),
    0x49: _line(_int_line),
    0x4C: _line(_int_line),
    0x50: _refuse("PERSID"),
    0x52: _reduce,
    0x53: _line(_quoted),
    0x54: _sized(4, lambda _, text: str(text, "ascii")),
    0x55: _sized(1, lambda _, text: str(text, "ascii")),
    0x56: _line(_decoded_line),
    0x62: _build,
    0x63: _global,
    0x64: _gathering(_dict_of),
    0x67: _get(0),
    0x69: _inst,
    0x6A: _get(4),
    0x6C: _gathering(lambda _, parts: parts),
    0x6F: _gathering(lambda _, parts: _instance(parts[0], parts[1:])),
    0x70: _put(0),
    0x71: _put(1),
    0x72: _put(4),
    0x74: _gathering(lambda _, parts: Form({"$tuple": parts})),
    0x29: _push(lambda: Form({"$tuple": []})),
    0x81: _new,
    0x82: _refuse("EXT1"),
    0x83: _refuse("EXT2"),
    0x84: _refuse("EXT4"),
    0x85: _tuple(1),
    0x87: _tuple(3),
    0x8A: _sized(1, lambda _, number: _int_form(int.from_bytes(number, "little", signed=True))),
    0x8B: _sized(4, lambda _, number: _int_form(int.from_bytes(number, "little", signed=True))),
    0x42: _sized(4, lambda _, data: data),
    0x8D: _sized(8, lambda _, text: str(text, "utf-8", "surrogatepass")),
    0x8E: _sized(8, lambda _, data: data),
    0x8F: _push(lambda: Form({"$set": []})),
    0x90: _add_items,
    0x91: _gathering(lambda _, parts: Form({"$frozenset": parts})),
    0x92: _new_ex,
    0x96: _sized(8, lambda _, data: bytearray(data)),
    0x97: _refuse("NEXT_BUFFER"),
    0x98: _refuse("READONLY_BUFFER"),
}


# Calls with a form of their own


def _result(function: Plain, arguments: Plain) -> Plain:
    """Return what a call gives: a form of its own for values of usual types [EXP-5], otherwise the call. [EXP-6]"""
    made = _made("$call", function, arguments)
    found = value_of_call(made["$call"], made.get("args", []))  # type: ignore[arg-type]  # a list
    return made if found is None else found
