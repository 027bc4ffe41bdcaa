"""Pickles of states that C reads for exports: it makes of them what the machine in Python makes, or leaves them."""

import io
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from durus.error import RecordError
from durus.implementation import implementation
from durus.records import plain
from durus.records.plain import read_plain
from durus.records.plain_forms import MAX_DEPTH, Form

pytestmark = [
    pytest.mark.spec("EXP-1", "EXP-9", "EXP-10"),
    pytest.mark.skipif(implementation != "C", reason="the C extension is not in use"),
]
CLASS = b"\x80\x02cshop\nOrder\n."
MUTATIONS = 3000


class Ref:
    """Stands for a persistent object."""

    def __init__(self, number: int) -> None:
        self.number = number


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return (obj.number.to_bytes(8, "big"), Decimal) if isinstance(obj, Ref) else None


def pickled(state: object, protocol: int = 4) -> bytes:
    out = io.BytesIO()
    Pickler(out, protocol).dump(state)
    return out.getvalue()


def outcome(state: bytes) -> object:
    """Return what is read: class, JSON and types of all parts, or the error."""
    try:
        found = read_plain(CLASS + state)
    except RecordError as error:
        return str(error)
    return found.cls, found.json(), repr(list(types_in(found.state)))


def types_in(value: object) -> Iterator[type]:
    pending = [value]
    while pending:
        part = pending.pop()
        yield type(part)
        if isinstance(part, dict):
            pending += [each for item in part.items() for each in item]
        elif isinstance(part, list):
            pending += part


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Counter[bool]]:
    """Compare both readers of a state, and count how many C has read and left."""
    in_c: Callable[[bytes, Any], object] = vars(plain)["usual_state"]
    total: Counter[bool] = Counter()

    def compare(state: bytes) -> Counter[bool]:
        monkeypatch.setitem(vars(plain), "usual_state", in_c)
        found = outcome(state)
        monkeypatch.setitem(vars(plain), "usual_state", lambda pickled, kit: None)
        assert found == outcome(state), state
        total[in_c(state, vars(plain)["_KIT"]) is not None] += 1
        return total

    return compare


def values(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(12 if depth < 4 else 7)
    match kind:
        case 0:
            return chance.choice((None, True, False, "", "a", "x" * 100, "y" * 101, "ä\udc80", "$key", b"", b"z" * 101))
        case 1:
            return chance.choice(
                (0, 255, 256, 65536, -1, -(2**31), 2**31, 2**47, -(2**47), 2**48, 2**53, 2**70, 2**900)
            )
        case 2:
            return chance.choice((1.5, -0.0, float("nan"), float("inf"), 1e300))
        case 3:
            return chance.choice((datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 2), timedelta(1), Decimal("1.5")))
        case 4:
            return Ref(chance.choice((0, 7, 2**63, 2**64 - 2)))
        case 5:
            return chance.choice((UUID(int=5), bytearray(b"1"), frozenset({1}), {1}, set(), (), Ref, Decimal))
        case 6 | 7:
            return {f"k{n}": values(chance, depth + 1) for n in range(chance.randrange(5))}
        case 8:
            return {
                chance.choice(("a", 1, "$b", (1,), None)): values(chance, depth + 1) for n in range(chance.randrange(4))
            }
        case 9:
            return [values(chance, depth + 1) for _ in range(chance.randrange(4))]
        case 10:
            return tuple(values(chance, depth + 1) for _ in range(chance.randrange(5)))
    shared = values(chance, depth + 1)
    return [shared, {"again": shared}]


def test_both_make_the_same_of_all_kinds_of_values(counts: Callable[[bytes], Counter[bool]]) -> None:
    chance = random.Random(1)
    for number in range(2000):
        total = counts(pickled({"value": values(chance)}, (4, 5, 2)[number % 3]))
    assert min(total[True], total[False]) > 500


def test_both_make_the_same_of_what_no_pickler_writes(counts: Callable[[bytes], Counter[bool]]) -> None:
    chance = random.Random(2)
    for _ in range(MUTATIONS):
        state = bytearray(pickled({"a": values(chance), "b": [1, ("x", Ref(1))]}, 4))
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(state))
            match chance.randrange(3):
                case 0:
                    state[at] = chance.randrange(256)
                case 1:
                    del state[at : at + chance.randrange(4)]
                case 2:
                    state[at:at] = chance.choice(
                        (b"(", b"0", b"u", b"}", b"]", b"e", b"s", b"a", b"\x90", b"R", b"Q", b"h\0")
                    )
        total = counts(bytes(state))
    assert total[True] > 100


@pytest.mark.parametrize("size", range(60))
def test_each_beginning_of_a_pickle_is_left_to_the_machine(size: int, counts: Callable[[bytes], Counter[bool]]) -> None:
    state = pickled({"a": [1, 1.5, "b", b"c", 2**40, None, True], "d": (Ref(1),), "e": {1: 2}, "f": {3}})
    assert counts(state)[True] == 1
    counts(state[:size])


@pytest.mark.parametrize("inner", ["", [], {}])
@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1])
def test_both_refuse_what_is_nested_too_deep(
    depth: int, inner: object, counts: Callable[[bytes], Counter[bool]]
) -> None:
    for _ in range(depth):
        inner = [inner]
    counts(pickled(inner))


@pytest.mark.parametrize("marks", [199, 200, 201, 5000])
def test_many_marks_are_left_to_the_machine(marks: int, counts: Callable[[bytes], Counter[bool]]) -> None:
    counts(b"\x80\x04" + b"(" * marks + b"t" * marks + b".")


@pytest.mark.parametrize("size", [90, 98, 99, 900])
def test_both_count_the_characters_of_long_names_of_nested_classes(
    size: int, counts: Callable[[bytes], Counter[bool]]
) -> None:
    name = b"X" + size.to_bytes(4, "little") + b"D" * size
    nested = b"cbuiltins\ngetattr\ncm\nC\n" + name + b"\x86R"
    counts(b"\x80\x04(" + nested + b"\x94" + b"h\0" * 5000 + b"t.")
    total = counts(b"\x80\x04" + nested + b".")
    assert total[True] == 2 * (len("m:C.") + size <= 100)


def test_interrupt_in_a_call_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> object:
        raise KeyboardInterrupt

    in_c: Callable[[bytes, Any], object] = vars(plain)["usual_state"]
    form, _, _, *names = vars(plain)["_KIT"]
    with pytest.raises(KeyboardInterrupt):
        in_c(pickled(Decimal), (form, interrupt, interrupt, *names))
    assert form is Form
