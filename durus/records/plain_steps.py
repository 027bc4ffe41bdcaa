"""The steps of pickles that make plain values, but not the usual ones of plain.py. Statements EXP-2 to EXP-6."""

import math
import struct
from collections.abc import Callable
from typing import TypeAlias

from durus.error import RecordError
from durus.records.plain_calls import value_of_call
from durus.records.plain_forms import MAX_KEY, Form, NoFormError, Plain, class_text
from durus.records.plain_sharing import SharedValues
from durus.records.present_names import present_name

_MAX_PLAIN = 1 << 53
_MAX_DECIMAL = 1 << 1024
_NAMES_PER_BYTE = 16
_FREE_NAMES = 1 << 20
"""How many characters of long names may come from a byte, and from none. [EXP-10]"""
_GROWING = ("$call", "$new")


class Context:
    """What the steps of consecutive pickles share: the bytes, the memo, and what was used more than once."""

    def __init__(self, pickles: bytes) -> None:
        self.pickles = pickles
        self.memo: dict[int, Plain] = {}
        self.protocol = 0
        self.shared = SharedValues()
        self._budget = _NAMES_PER_BYTE * len(pickles) + _FREE_NAMES
        """How many more characters of long names there may be."""

    def note_fetched(self, value: Plain) -> None:
        """Note that a step used a value again."""
        self.count_name(value)
        self.shared.note(value)

    def name(self, module: Plain, qualname: Plain) -> Form:
        """Return the form of a class. RecordError if its name is not text, or too long. [EXP-4]"""
        if type(module) is not str or type(qualname) is not str:
            raise RecordError("its data has a class whose name is not text")
        names = present_name(module, qualname) if self.protocol <= 2 else (module, qualname)
        named = Form({"$class": class_text(*names)})
        self.count_name(named)
        return named

    def count_name(self, value: Plain) -> None:
        """Count the characters of a class or a reference with a long name, which few bytes can repeat. [EXP-10]"""
        name = value.get("$class") or value.get("class") if type(value) is Form else None
        size = len(name) if isinstance(name, str) else len(str(name))
        if size > MAX_KEY:
            self._budget -= size
            if self._budget < 0:
                raise NoFormError("its data repeats long names too often")


def reference(pair: Plain) -> Form:
    """Return the form of a reference, from the pair that is one in a pickle. [EXP-3]"""
    match pair:
        case {"$tuple": [bytes() as oid, {"$class": cls}]} if len(oid) == 8:
            return Form({"$ref": int.from_bytes(oid, "big"), "class": cls})
    raise RecordError("a reference must be a pair of 8-byte oid and class, and one in its data is not")


def float_form(value: float) -> Plain:
    """Return a float, or the form of one that JSON lacks. [EXP-5]"""
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


def append(target: Plain, items: list[Plain]) -> None:
    """Append to a list or an instance. RecordError for anything else."""
    if type(target) is list:
        target += items
    elif type(target) is Form and next(iter(target)) in _GROWING:
        _grow(target, "items", items)
    else:
        raise _no_growth(target, "its data appends to something that is not a list")


def _no_growth(target: Plain, problem: str) -> RecordError:
    """Return the error for a value that has no items of its own, or has no form with them."""
    return NoFormError(problem) if type(target) is bytearray else RecordError(problem)


def _grow(target: Form, key: str, parts: list[Plain]) -> None:
    """Add what is appended or set to an instance; the keys of its form have the order of the steps. [EXP-6]"""
    last = next(reversed(target))
    if key not in target:
        target[key] = parts
    elif last == key and key != "state":
        target[key] += parts  # type: ignore[operator]  # a list, as it was made
    else:
        raise NoFormError(f"its data changes {key} of an instance in an order that has no form")


def set_items(target: Plain, parts: list[Plain]) -> None:
    """Set items of a dict or an instance: keys and values in turn. RecordError for anything else."""
    if type(target) is not dict:
        if not (type(target) is Form and next(iter(target)) in _GROWING):
            raise _no_growth(target, "its data sets an item where none can be set")
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


# The steps


def _sized(size: int, make: Callable[[Context, bytes], Plain]) -> "_Step":
    def step(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
        start = index + size
        end = start + int.from_bytes(context.pickles[index:start], "little")
        if end > len(context.pickles):
            raise RecordError(f"its pickle ends inside the step at byte {index - 1}")
        stack.append(make(context, context.pickles[start:end]))
        return end

    return step


def _line(make: Callable[[bytes], Plain]) -> "_Step":
    def step(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
        end = context.pickles.index(b"\n", index)
        stack.append(make(context.pickles[index:end]))
        return end + 1

    return step


def _tuple(size: int) -> "_Step":
    def step(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
        parts = stack[-size:]
        if len(parts) < size:
            raise RecordError("its data takes more from the stack than is there")
        stack[-size:] = [Form({"$tuple": parts})]
        return index

    return step


def _gathering(make: Callable[[Context, list[Plain]], Plain]) -> "_Step":
    def step(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
        start = marks.pop()
        stack[start:] = [make(context, stack[start:])]
        return index

    return step


def _get(size: int) -> "_Step":
    def step(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
        end = index + size if size else context.pickles.index(b"\n", index)
        argument = context.pickles[index:end]
        value = context.memo[int.from_bytes(argument, "little") if size else int(argument)]
        context.note_fetched(value)
        stack.append(value)
        return end if size else end + 1

    return step


def _put(size: int) -> "_Step":
    def step(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
        end = index + size if size else context.pickles.index(b"\n", index)
        argument = context.pickles[index:end]
        context.memo[int.from_bytes(argument, "little") if size else int(argument)] = stack[-1]
        return end if size else end + 1

    return step


def _pop(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
    if marks and marks[-1] == len(stack):
        marks.pop()
    else:
        stack.pop()
    return index


def _pop_mark(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
    del stack[marks.pop() :]
    return index


def _dup(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
    context.note_fetched(stack[-1])
    stack.append(stack[-1])
    return index


def _push(make: Callable[[], Plain]) -> "_Step":
    def step(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
        stack.append(make())
        return index

    return step


def _global(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
    middle = context.pickles.index(b"\n", index)
    end = context.pickles.index(b"\n", middle + 1)
    stack.append(
        context.name(str(context.pickles[index:middle], "utf-8"), str(context.pickles[middle + 1 : end], "utf-8"))
    )
    return end + 1


def _inst(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
    end = _global(context, stack, marks, index)
    cls = stack.pop()
    start = marks.pop()
    stack[start:] = [_instance(cls, stack[start:])]
    return end


def _instance(cls: Plain, arguments: list[Plain]) -> Plain:
    """Return what the steps INST and OBJ make: without arguments, a class is not called."""
    return _made("$call" if arguments else "$new", cls, Form({"$tuple": arguments}))


def result(function: Plain, arguments: Plain, shared: SharedValues | None = None) -> Plain:
    """Return what a call gives: a form of its own for values of usual types [EXP-5], otherwise the call. [EXP-6]"""
    made = _made("$call", function, arguments)
    parts: list[Plain] = made.get("args", [])  # type: ignore[assignment]  # a list, as it was made
    if shared is not None and any(map(shared.is_used_again, parts)):
        return made
    found = value_of_call(made["$call"], parts)
    return made if found is None else found


def _reduce(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
    arguments = stack.pop()
    stack[-1] = result(stack[-1], arguments, context.shared)
    context.count_name(stack[-1])
    return index


def _new(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
    arguments = stack.pop()
    stack[-1] = _made("$new", stack[-1], arguments)
    return index


def _new_ex(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
    kwargs, arguments = stack.pop(), stack.pop()
    made = stack[-1] = _made("$new", stack[-1], arguments)
    made["kwargs"] = kwargs
    return index


def _made(how: str, function: Plain, arguments: Plain) -> Form:
    if type(function) is not Form:
        raise RecordError("its data calls a plain value")
    made = Form({how: function.get("$class", function)})
    if not (type(arguments) is Form and "$tuple" in arguments):
        raise RecordError("its data calls something with arguments that are not a tuple")
    if arguments["$tuple"]:
        made["args"] = arguments["$tuple"]
    return made


def _build(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
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
                return index
    _grow(target, "state", state)  # type: ignore[arg-type]  # a state is stored as it is
    return index


def _add_items(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
    start = marks.pop()
    match stack[start - 1 if start else start]:
        case {"$set": list() as items}:
            items += stack[start:]
        case _:
            raise RecordError("its data adds items to something that is not a set")
    del stack[start:]
    return index


def _refuse(name: str) -> "_Step":
    def step(context: Context, stack: list[Plain], marks: list[int], index: int) -> int:
        raise RecordError(f"its data has a step that has no use in a record: {name}")

    return step


def _decoded_line(line: bytes) -> str:
    return str(line, "raw-unicode-escape")


def _quoted(line: bytes) -> str:
    return str(line.strip()[1:-1], "ascii")


def _int_line(line: bytes) -> Plain:
    return _int_form(int(line.rstrip(b"L"))) if line not in (b"00", b"01") else line == b"01"


def _dict_of(context: Context, parts: list[Plain]) -> Plain:
    made: dict[str, Plain] = {}
    set_items(made, parts)
    return made


_Step: TypeAlias = Callable[[Context, list[Plain], list[int], int], int]
STEPS: dict[int, _Step] = {
    0x30: _pop,
    0x31: _pop_mark,
    0x32: _dup,
    0x46: _line(lambda line: float_form(float(line))),
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
