"""How much work a pickle makes for its reader, judged by its steps alone. Statements REC-33 to REC-36.

Python's unpicklers trust the numbers in a pickle: they take memory for memo entries and bytes before they check that
there are any. And a few steps make a tuple that has millions of parts, if all of its occurrences count, and whose hash
so takes as long. Here a pickle is followed without making anything.

Numbers that are too large also come from damage: fits(), which has a twin in C, finds them fast. It also finds steps
that would change what the pickle did not make: classes, and other objects of the database. [PICKLE-9] Keys that are too
large do not come from damage, so only readers that do not trust all writers look for them.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from durus.error import RecordError
from durus.records.pickle_machine import (
    COUNT_SIZES,
    DUP,
    FRAME,
    GETS,
    KINDS,
    MARK,
    MEMOIZE,
    POP,
    PUTS,
    STOP,
    TUPLES,
    end_of_step,
    memo_number,
)

_ALWAYS_ALLOWED = 10**8
"""Parts of keys: hashing them takes some seconds."""
_ALLOWED_PER_BYTE = 100
_MAX_DEPTH = 1000
"""Tuples inside each other. Python's hash() of deeper ones may exceed the stack of a thread."""

_LONG_NUMBERS, _LONG4 = frozenset(b"jr"), 0x8B
_ALL_TUPLES = TUPLES | {0x87}
_LONGS = frozenset((0x8A, _LONG4, ord("L"), ord("I")))
_SETITEM, _FROZENSET = ord("s"), 0x91
_KEYS = {_SETITEM: 1, ord("u"): 2, ord("d"): 2, 0x90: 1, _FROZENSET: 1}
"""Steps that hash values: every n-th value after the mark, with this n."""
_KEEPS_LOWEST = frozenset((*b"sueab", 0x90))
"""Steps that put something into the lowest value that they take. With nothing to put in, that may be any value."""
_FINDS = frozenset((*b"cQ", 0x82, 0x83, 0x84, 0x93))
"""Steps that push a class, a function or another object, which no step may change."""
_ATOMS = {
    code
    for code, kind in KINDS.items()
    if not kind.pops and not kind.pops_to_mark and kind.pushes and code not in {*GETS, *_LONGS, MARK}
}


def most_work(size: int) -> int:
    """Return how much work pickles of this many bytes may make. [REC-35]"""
    return max(_ALWAYS_ALLOWED, _ALLOWED_PER_BYTE * size)


class _Weight(NamedTuple):
    """What hashing a value takes."""

    parts: int
    depth: int


_PLAIN = _Weight(1, 0)
_FOUND = _Weight(*_PLAIN)
"""That of what the pickle did not make."""


def _tuple_of(parts: list[_Weight]) -> _Weight:
    return _Weight(1 + sum([part.parts for part in parts]), 1 + max(part.depth for part in parts)) if parts else _PLAIN


def _frozenset_of(parts: list[_Weight]) -> _Weight:
    """Return the weight of a set that keeps its hash: comparing two of them takes the hashes of their parts again."""
    return _Weight(1 + sum([part.parts - 1 for part in parts]), 0)


class _Work:
    """Adds up what hashing the keys takes."""

    def __init__(self, size: int) -> None:
        self._most = most_work(size)
        self._done = 0

    def hash(self, keys: list[_Weight], start: int) -> None:
        """Add the keys that a step uses; RecordError if they are too deep, or now too many."""
        self._done += sum([key.parts for key in keys])
        if self._done > self._most:
            raise RecordError(
                f"its step at byte {start} uses keys that have more than {self._most} parts, all occurrences counted, "
                "so that loading it would take too long"
            )
        deepest = max((key.depth for key in keys), default=0)
        if deepest > _MAX_DEPTH:
            raise RecordError(
                f"its step at byte {start} uses a key of {deepest} nested tuples, and {_MAX_DEPTH} are allowed"
            )


def _follow(pickles: bytes, first_only: bool) -> None:
    memo: dict[int, _Weight] = {}
    stack: list[_Weight] = []
    marks: list[int] = []
    fence = at = 0
    work = _Work(len(pickles))
    while at < len(pickles):
        start, code = at, pickles[at]
        at = end_of_step(pickles, code, start)
        if code in _ATOMS:
            stack.append(_FOUND if code in _FINDS else _PLAIN)
            continue
        if code == MEMOIZE:
            if len(stack) == fence:
                raise _underflow(start)
            memo[len(memo)] = stack[-1]
            continue
        if code == STOP:
            stack, marks, fence = [], [], 0
            if first_only:
                return
            continue
        if code == MARK:
            fence = len(stack)
            marks.append(fence)
            continue
        if code == FRAME:
            if int.from_bytes(pickles[start + 1 : at], "little") > len(pickles) - at:
                raise RecordError(f"its frame at byte {start} ends after its pickle")
            continue
        items: list[_Weight] = []
        kind = KINDS[code]
        if kind.pops_to_mark or (code == POP and marks and fence == len(stack)):
            if not marks:
                raise _underflow(start)
            items = stack[fence:]
            del stack[marks.pop() :]
            fence = marks[-1] if marks else 0
            if code == POP:
                continue
        pops = 1 if code in PUTS else kind.pops
        if len(stack) - pops < fence:
            raise _underflow(start)
        below = stack[len(stack) - pops :]
        if code in PUTS:
            memo[memo_number(pickles, code, start, at)] = below[0]
            continue
        if code in GETS:
            number = memo_number(pickles, code, start, at)
            if number not in memo:
                raise RecordError(f"its step at byte {start} uses the memo entry {number}, which does not exist")
            stack.append(memo[number])
            continue
        if code in _KEYS:
            work.hash(below[1:2] if code == _SETITEM else items[:: _KEYS[code]], start)
        del stack[len(stack) - pops :]
        if code in _KEEPS_LOWEST:
            if below[0] is _FOUND and (items or not kind.pops_to_mark):
                raise RecordError(f"its step at byte {start} would change an object or a class that it did not make")
            stack.append(below[0])
        elif code == DUP:
            stack += below * 2
        elif code in _ALL_TUPLES:
            stack.append(_tuple_of(items or below))
        elif code == _FROZENSET:
            stack.append(_frozenset_of(items))
        elif code in _LONGS:
            stack.append(_Weight(1 + (at - start) // 4, 0))
        elif kind.pushes:
            stack.append(_FOUND if code in _FINDS else _PLAIN)


def _underflow(start: int) -> RecordError:
    return RecordError(f"its step at byte {start} takes more from the stack than is there")


_SIMPLE = {code: kind.argument_size for code, kind in KINDS.items() if kind.argument_size >= 0}
for _code in STOP, FRAME, *_LONG_NUMBERS:
    del _SIMPLE[_code]
_COUNTED = {code: COUNT_SIZES[kind.argument_size] for code, kind in KINDS.items() if kind.argument_size in COUNT_SIZES}


def _short(code: bytes) -> bytes:
    return code + b"(?:" + b"|".join([re.escape(bytes([size])) + b".{%d}" % size for size in range(33)]) + b")"


def _one_of(codes: Iterable[int]) -> list[bytes]:
    """Return patterns of steps that have a code of these, and an argument of a size that is always the same."""
    patterns = []
    for size in sorted({*_SIMPLE.values()}):
        own = b"".join(re.escape(bytes([code])) for code in sorted(codes) if _SIMPLE[code] == size)
        patterns += [b"[" + own + (b"].{%d}" % size if size else b"]")] if own else []
    return patterns


def _either(*patterns: bytes) -> bytes:
    return b"(?:" + b"|".join(patterns) + b")"


_SHORT_TEXT, _SHORT_BYTES, _SHORT_INT = (_short(code) for code in (b"\x8c", b"C", b"\x8a"))
_LINES = rb"c[^\n]*\n[^\n]*\n"
_skip = re.compile(_either(*_one_of(_SIMPLE), _SHORT_TEXT, _SHORT_BYTES, _SHORT_INT, _LINES) + b"*+", re.DOTALL).match
"""Finds the end of a run of steps of which no number is too large."""

# Usual pickles, which leave what they find in a container, a tuple or an instance before anything else is filled.
_PUT, _GET = rb"(?:\x94|q.)?", rb"h."
_TEXT = _either(_SHORT_TEXT + _PUT, _GET)
_CLASS = _either(_LINES + _PUT, _TEXT + _TEXT + rb"\x93" + _PUT, _GET)
_REFERENCE = rb"C\x08.{8}" + _PUT + _CLASS + rb"\x86" + _PUT + b"Q"
_VALUE = _either(*_one_of(_ATOMS & (_SIMPLE.keys() - _FINDS)), _SHORT_TEXT, _SHORT_BYTES, _SHORT_INT, rb"[\x85-\x87]")
_IN_CONTAINER = _either(_REFERENCE, _GET) + _either(
    b"[sa]", _either(_REFERENCE, _GET, _VALUE + _PUT) + rb"*+[uet\x90\x91]"
)
_INSTANCE = _CLASS + rb"\)\x81"
_OTHERS = _one_of(_SIMPLE.keys() - _FINDS - GETS)
_match_usual = re.compile(
    rb"\x80.(?:\x95(.{8}))?"
    + _either(_IN_CONTAINER, _INSTANCE, *_OTHERS, _SHORT_TEXT, _SHORT_BYTES, _SHORT_INT)
    + b"*+"
    + _CLASS
    + rb"?\.",
    re.DOTALL,
).match
_FRAME_END = 11
"""Where the argument of the frame ends in such a pickle."""
_IS_MADE, _IS_FOUND, _A_MARK = range(3)
_ONE_FOUND = bytes([_IS_FOUND])


def fits(pickles: bytes, first_only: bool) -> bool:
    """Return whether the numbers in pickles fit, and their steps change only what they make, beyond doubt. [REC-33]"""
    usual = _match_usual(pickles)
    if usual is not None and (first_only or usual.end() == len(pickles)):
        frame = usual[1]
        if frame is None or int.from_bytes(frame, "little") <= len(pickles) - _FRAME_END:
            return True
    return _numbers_fit(pickles, first_only) and _changes_its_own(pickles, first_only)


def _numbers_fit(pickles: bytes, first_only: bool) -> bool:
    at = 0
    size = len(pickles)
    while at < size:
        run = _skip(pickles, at)
        at = at if run is None else run.end()
        if at >= size:
            return False
        code = pickles[at]
        if code == STOP:
            at += 1
            if first_only or at == size:
                return True
        elif code in _COUNTED:
            end = at + 1 + _COUNTED[code]
            at = end + int.from_bytes(pickles[at + 1 : end], "little")
        elif code == FRAME:
            at += 9
            if int.from_bytes(pickles[at - 8 : at], "little") > size - at:
                return False
        elif code in _LONG_NUMBERS and int.from_bytes(pickles[at + 1 : at + 5], "little") < size:
            at += 5
        else:
            return False
    return False


def _changes_its_own(pickles: bytes, first_only: bool) -> bool:
    """Return whether pickles whose numbers fit change only what they make. [PICKLE-9]

    What is taken from an empty stack or memo counts as made: the unpickler refuses such a step before those after it.
    """
    memo: dict[int, int] = {}
    stack = bytearray()
    """What is known of each value and mark."""
    at = 0
    while at < len(pickles):
        start, code = at, pickles[at]
        at = end_of_step(pickles, code, start)
        kind = KINDS[code]
        if code == MARK:
            stack.append(_A_MARK)
        elif code in PUTS:
            number = len(memo) if code == MEMOIZE else int.from_bytes(pickles[start + 1 : at], "little")
            memo[number] = _IS_FOUND if stack[-1:] == _ONE_FOUND else _IS_MADE
        elif code in GETS:
            stack.append(memo.get(int.from_bytes(pickles[start + 1 : at], "little"), _IS_MADE))
        elif code == DUP:
            stack += stack[-1:]
        elif code == STOP:
            if first_only:
                break
            stack.clear()
        else:
            has_items = True
            if kind.pops_to_mark:
                mark = stack.rfind(_A_MARK)
                has_items = mark + 1 < len(stack)
                del stack[max(0, mark) :]
            keeps_lowest = code in _KEEPS_LOWEST
            pops = kind.pops - keeps_lowest
            if keeps_lowest and has_items and len(stack) > pops and stack[-1 - pops] == _IS_FOUND:
                return False
            del stack[max(0, len(stack) - pops) :]
            if kind.pushes and not keeps_lowest:
                stack.append(_IS_FOUND if code in _FINDS else _IS_MADE)
    return True


def check_work(pickles: bytes, first_only: bool) -> None:
    """Raise RecordError for pickles that share a memo, or a first one, that exceed a limit or change what they find.

    Statements REC-33 to REC-35, and PICKLE-9.
    """
    try:
        _follow(pickles, first_only)
    except RecordError:
        raise
    except (IndexError, KeyError, ValueError) as error:
        raise RecordError(f"its data can't be read: {type(error).__name__}: {error}") from error
