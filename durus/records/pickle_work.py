"""How much work a pickle makes for the one who loads it, told from its steps alone. Statements REC-33 to REC-36.

Python's unpicklers trust the numbers in a pickle: they take memory for memo entries and bytes before they look whether
there are any. And a few steps make a tuple that has millions of parts, if all of its occurrences count, and whose hash
so takes as long. Here a pickle is followed without making anything.

Numbers that are too large also come from damage: fits(), which has a twin in C, finds them fast. Keys that are too
large do not, so only those who do not trust all writers look for them.
"""

import re
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
_DEEPEST = 1000
"""Tuples inside each other. Python's hash() of deeper ones may exceed the stack of a thread."""

_LONG_NUMBERS, _LONG4 = frozenset(b"jr"), 0x8B
_ALL_TUPLES = TUPLES | {0x87}
_LONGS = frozenset((0x8A, _LONG4, ord("L"), ord("I")))
_SETITEM, _FROZENSET = ord("s"), 0x91
_KEYS = {_SETITEM: 1, ord("u"): 2, ord("d"): 2, 0x90: 1, _FROZENSET: 1}
"""Steps that hash values: every so many of the values behind the mark."""
_KEEPS_LOWEST = frozenset((*b"sueab", 0x90))
"""Steps that put something into the lowest value that they take. With nothing to put in, that may be any value."""
_ATOMS = {
    code
    for code, kind in KINDS.items()
    if not kind.pops and not kind.pops_to_mark and kind.pushes and code not in {*GETS, *_LONGS, MARK}
}


def most_work(size: int) -> int:
    """Return how much work pickles of so many bytes may make. [REC-35]"""
    return max(_ALWAYS_ALLOWED, _ALLOWED_PER_BYTE * size)


class _Weight(NamedTuple):
    """What hashing a value takes."""

    parts: int
    depth: int


_PLAIN = _Weight(1, 0)


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
        if deepest > _DEEPEST:
            raise RecordError(
                f"its step at byte {start} uses a key of {deepest} tuples inside each other, and {_DEEPEST} are allowed"
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
            stack.append(_PLAIN)
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
                raise RecordError(f"its frame at byte {start} does not end in it")
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
            stack.append(_PLAIN)


def _underflow(start: int) -> RecordError:
    return RecordError(f"its step at byte {start} takes more from the stack than is there")


_SIMPLE = {code: kind.argument_size for code, kind in KINDS.items() if kind.argument_size >= 0}
for _code in STOP, FRAME, *_LONG_NUMBERS:
    del _SIMPLE[_code]
_COUNTED = {code: COUNT_SIZES[kind.argument_size] for code, kind in KINDS.items() if kind.argument_size in COUNT_SIZES}


def _steps_of(size: int) -> bytes:
    codes = b"".join(re.escape(bytes([code])) for code, own in _SIMPLE.items() if own == size)
    return b"[" + codes + (b"].{%d}" % size if size else b"]++")


def _short(code: bytes) -> bytes:
    return code + b"(?:" + b"|".join([re.escape(bytes([size])) + b".{%d}" % size for size in range(33)]) + b")"


_SIMPLE_STEPS = map(_steps_of, sorted({*_SIMPLE.values()}))
_RUN = (
    b"(?:"
    + b"|".join([*_SIMPLE_STEPS, *map(_short, (b"\x8c", b"C", b"\x8a")), rb"c[^\n]*\n[^\n]*\n|[jr]..\0\0"])
    + b")*+"
)
_skip = re.compile(_RUN, re.DOTALL).match
"""Finds the end of a run of steps with numbers below 256, and lengths that are there."""
_match_usual = re.compile(rb"\x80.(?:\x95(.{8}))?" + _RUN + rb"\.", re.DOTALL).fullmatch
_FRAME_END = 11
"""Where the argument of the frame ends in such a pickle."""


def fits(pickles: bytes, first_only: bool) -> bool:
    """Tell whether the numbers in pickles are in their limits beyond doubt. [REC-33]"""
    usual = _match_usual(pickles)
    if usual is not None:
        frame = usual[1]
        if frame is None or int.from_bytes(frame, "little") <= len(pickles) - _FRAME_END:
            return True
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


def check_work(pickles: bytes, first_only: bool) -> None:
    """Raise RecordError for pickles that share a memo, or a first one, that exceed a limit. [REC-33] to [REC-35]"""
    try:
        _follow(pickles, first_only)
    except RecordError:
        raise
    except (IndexError, KeyError, ValueError) as error:
        raise RecordError(f"its data can't be read: {type(error).__name__}: {error}") from error
