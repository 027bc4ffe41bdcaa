"""States that C writes for imports: it makes of them what the writer in Python makes, or leaves them."""

import json
import random
from collections import Counter
from typing import Any

import pytest

from durus.error import RecordError
from durus.implementation import implementation
from durus.records import plain_writer
from durus.records.plain_writer import write_plain
from tests.no_memory import NO_MEMORY, call_without_memory, in_a_process_alone

pytestmark = [
    pytest.mark.spec("EXP-2", "EXP-3", "EXP-30"),
    pytest.mark.skipif(implementation != "C", reason="the C extension is not in use"),
]
USUAL: list[Any] = [
    *(None, True, False, "", "a", "x" * 255, "ä" * 128, "y" * 70_000, "\0", "€𝄞"),
    *(0, 255, 256, 65535, 65536, -1, -(2**31), 2**31 - 1, 2**31, -(2**31) - 1, 2**39 - 1, 2**39, -(2**39)),
    *(2**53, -(2**53), 2**63 - 1, -(2**63), 1.5, -0.0, 1e308, 5e-324),
    *({}, [], {"": 1}, {"a": {}, "b": [[]]}, [1, [2, [3]]], {"k" * 300: 1}),
    *({"$tuple": []}, {"$tuple": [1, {"$tuple": [2]}]}, {"$set": []}, {"$set": [1, 2]}, {"$dict": []}),
    *({"$dict": [[1, 2], [{"$tuple": [1]}, None]]}, {"$ref": 0, "class": "m:C"}, {"$ref": 2**63 - 1, "class": "m:C"}),
    [{"$ref": number, "class": f"m:C{number % 16}"} for number in range(40)],
    [*([] for _ in range(300)), {"$ref": 1, "class": "m:C"}, {"$ref": 2, "class": "m:C"}],
    [*([] for _ in range(200)), {"$ref": 1, "class": "m:Ä"}, {"$ref": 2, "class": "m:Ä"}],
]
UNUSUAL: list[Any] = [
    *("\udc80", {"\udc80": 1}, 2**63, -(2**63) - 1, 10**40),
    *({"a": 1, "$b": 2}, {"$b": 1}, {"$tuple": 1}, {"$tuple": [], "a": 1}, {"$set": {}}, {"$dict": [1]}),
    *({"$dict": [[1]]}, {"$ref": -1, "class": "m:C"}, {"$ref": 2**63, "class": "m:C"}, {"$ref": 1}),
    *({"$ref": 1, "class": "C"}, {"$ref": 1, "class": ["m", "C"]}, {"class": "m:C", "$ref": 1}, {"$ref": 1, "x": 2}),
    *({"$ref": True, "class": "m:C"}, {"$ref": "1", "class": "m:C"}, {"$ref": 1, "class": "m:C", "a": 1}),
    *({"$date": "2026-01-02"}, {"$bytes": "YQ=="}, {"$id": 1, "$value": []}, {"$same": 1}, {"$class": "m:C"}),
    [{"$ref": 1, "class": f"m:C{number}"} for number in range(17)],
]


def outcome(state: Any) -> object:
    try:
        data, refs = write_plain("shop:Order", state)
    except RecordError as error:
        return str(error)
    return data, sorted(refs)


def is_usual(state: Any) -> bool:
    refs: set[bytes] = set()
    return plain_writer.usual_steps(state, refs, vars(plain_writer)["_kept_name_steps"]) is not None


def compared(state: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Compare both writers of a state; tell if C has written it."""
    found = outcome(state)
    with monkeypatch.context() as patch:
        patch.setattr(plain_writer, "usual_steps", lambda state, refs, name_steps: None)
        assert found == outcome(state), state
    return is_usual(state)


@pytest.mark.parametrize("state", USUAL, ids=lambda state: repr(state)[:40])
def test_usual_states_are_written_in_c(state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compared(state, monkeypatch)
    twice = json.loads(json.dumps({"a": [state, state], "b": {"$tuple": [state]}}))
    assert compared(twice, monkeypatch)


@pytest.mark.parametrize("state", UNUSUAL, ids=lambda state: repr(state)[:40])
def test_what_is_unusual_or_wrong_is_left_to_python(state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not compared(state, monkeypatch)
    assert not compared({"a": [state]}, monkeypatch)


def test_what_json_does_not_make_is_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for state in (float("inf"), float("nan"), (1,), b"a", object):
        assert not compared(state, monkeypatch)


def test_depth_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for depth in (50, 100, 101, 320, 321, 20_000):
        state: Any = 1
        for _ in range(depth):
            state = [state]
        seen.add((depth <= 100, compared(state, monkeypatch)))
    assert seen == {(True, True), (False, False)}


def test_states_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(5)

    def value(depth: int) -> Any:
        kind = chance.randrange(7 if depth < 4 else 2)
        parts = [value(depth + 1) for _ in range(chance.randrange(4))] if kind > 1 else []
        match kind:
            case 0 | 1:
                return json.loads(json.dumps(chance.choice(USUAL if chance.random() < 0.99 else UNUSUAL)))
            case 2:
                return parts
            case 3:
                return {f"k{number}": part for number, part in enumerate(parts)}
            case 4:
                return {"$dict": [[part, 1] for part in parts]}
            case _:
                return {chance.choice(("$set", "$tuple")): parts}

    counts = Counter(compared(value(0), monkeypatch) for _ in range(1000))
    assert min(counts[True], counts[False]) > 20


def test_interrupt_in_a_call_is_not_lost() -> None:
    def interrupt(cls: str) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain_writer.usual_steps({"$ref": 1, "class": "m:C"}, set(), interrupt)
    with pytest.raises(TypeError):
        plain_writer.usual_steps({}, frozenset(), interrupt)  # type: ignore[arg-type]  # the wrong type is the point


@in_a_process_alone
def test_each_allocation_can_fail() -> None:
    state = [{"$ref": 300, "class": "m:C"}, "x" * 3000, {"a": [1.5, {"$set": [1]}]}]
    arguments = state, set[bytes](), vars(plain_writer)["_kept_name_steps"]
    expected = plain_writer.usual_steps(*arguments)
    assert expected is not None
    found = [call_without_memory(number, plain_writer.usual_steps, *arguments) for number in range(50)]
    assert all(each in (expected, None, NO_MEMORY) for each in found)
    assert found[0] != expected
    assert found[-1] == expected
