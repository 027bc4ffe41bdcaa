"""Plain values that C writes as JSON, and in which it finds references: as the Python does it, or it leaves them."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from durus.implementation import implementation
from durus.records import plain_forms
from durus.records.plain_forms import Form, Plain, references, to_json
from tests.no_memory import NO_MEMORY, call_without_memory, in_a_process_alone

pytestmark = [
    pytest.mark.spec("EXP-2", "EXP-5", "EXP-43"),
    pytest.mark.skipif(implementation != "C", reason="the C extension is not in use"),
]
REF = Form({"$ref": 7, "class": "m:C"})
SCALARS: list[Plain] = [
    *(None, True, False, 0, -1, 2**53 - 1, -(2**63), 2**63 - 1, 1.5, -0.0, 1e16, 1e-7, 5e-324, 1.7976931348623157e308),
    *("", "a", '"\\/', "\n\r\t\f\b\0\x1f\x7f", "ä€", "𝄞\U0010ffff", "\ud800", "\udfff\ud800", "x" * 5000, "ä" * 5000),
    *(bytes(range(size)) for size in range(7)),
    b"\xff" * 3000,
]
LEFT: list[Plain] = [2**63, float("nan"), float("inf"), bytearray(b"ab"), ("m:x", "C"), {"a": {1: 2}}, "x" * (1 << 24)]
"""What C leaves to the Python."""
PATHS: list[Plain] = [
    *(
        REF,
        [REF],
        {"a": REF},
        {"a": [1, {"b": REF}]},
        Form({"$tuple": [REF, [REF]]}),
        {"$dict": [["k", REF], [REF, 1]]},
    ),
    {"data": {"$dict": [[1, REF], ["ä'" * 60, [REF]], [Form({"$tuple": [1, REF]}), REF], [b"\0", REF]]}},
    Form({"$call": "m:f", "args": [REF], "items": [REF], "pairs": [["k", REF]], "state": {"a": REF}}),
    Form({"$id": 1, "$value": {"a": [REF, Form({"$same": 1})]}}),
    {"pairs": [["k", REF]], "state": {"a": {"b": REF}}, "ä\udc80": REF, "a.b": {"it's": REF, "\n": [REF]}},
    Form({"$new": "m:C", "kwargs": {"$dict": [["k", Form({"$value": {"a": REF}})]]}, "pairs": 1}),
    {"$dict": [1, ["a"], ["a", REF, REF], {"a": REF}]},
]


def in_python(patch: pytest.MonkeyPatch, call: Callable[[Plain], object], value: Plain) -> object:
    with patch.context() as without_c:
        without_c.setattr(plain_forms, "usual_json", lambda value: None)
        without_c.setattr(plain_forms, "usual_references", lambda state, kit: None)
        return call(value)


def is_done_in_c(call: Callable[[Plain], object], value: Plain) -> bool:
    if call is to_json:
        return plain_forms.usual_json(value) is not None
    return plain_forms.usual_references(value, vars(plain_forms)["_KIT"]) is not None


@pytest.mark.parametrize("call", [to_json, references])
@pytest.mark.parametrize("value", [*SCALARS, *PATHS])
def test_usual_values_are_done_in_c(
    value: Plain, call: Callable[[Plain], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_done_in_c(call, value)
    assert call(value) == in_python(monkeypatch, call, value)


@pytest.mark.parametrize("value", LEFT)
def test_other_values_are_left_to_python(value: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_done_in_c(to_json, [value])
    assert to_json([value]) == in_python(monkeypatch, to_json, [value])


@pytest.mark.parametrize("call", [to_json, references])
@pytest.mark.parametrize("depth", [199, 200, 201, 400])
def test_what_is_nested_deeply_is_left_to_python(
    depth: int, call: Callable[[Plain], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    value: Plain = REF
    for _ in range(depth):
        value = [value]
    assert is_done_in_c(call, value) == (depth < 200)
    assert call(value) == in_python(monkeypatch, call, value)


def test_a_key_that_is_no_text_is_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    value: Any = {1: [REF]}
    assert not is_done_in_c(references, value)
    assert references(value) == in_python(monkeypatch, references, value) == [(".1[0]", REF)]


def test_both_do_the_same_with_values_of_all_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(3)

    def value(depth: int) -> Plain:
        if depth == 4 or chance.random() < 0.3:
            return chance.choice([*SCALARS[:-2], REF])
        parts = [value(depth + 1) for _ in range(chance.randrange(4))]
        if chance.random() < 0.4:
            return parts
        keys = ["a", "state", "pairs", "$value", "$dict", "$tuple", "ä", "args"]
        made = dict(zip(chance.sample(keys, len(parts)), parts, strict=True))
        return made if chance.random() < 0.5 else Form(made)

    for _ in range(1000):
        made = value(0)
        assert is_done_in_c(to_json, made)
        assert is_done_in_c(references, made)
        assert to_json(made) == in_python(monkeypatch, to_json, made)
        assert references(made) == in_python(monkeypatch, references, made)


def test_interrupt_in_a_call_is_not_lost() -> None:
    def interrupt(key: object) -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain_forms.usual_references({"$dict": [["k", REF]]}, (Form, interrupt, "$ref"))


@in_a_process_alone
def test_each_allocation_can_fail() -> None:
    state: Plain = {"a": ["x" * 3000, REF], "$dict": [[Form({"$tuple": [1]}), REF]]}
    calls: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (plain_forms.usual_json, (state,)),
        (plain_forms.usual_references, (state, vars(plain_forms)["_KIT"])),
    ]
    for function, arguments in calls:
        expected = function(*arguments)
        found = [call_without_memory(number, function, *arguments) for number in range(50)]
        assert all(each in (expected, None, NO_MEMORY) for each in found)
        assert found[0] != expected
        assert found[-1] == expected
