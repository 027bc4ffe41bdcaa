"""The cases: what each example of the specification means for each operation.

A case calls the testee, and returns what came as JSON, which is compared with what is expected. Nothing here knows
how a testee is run or how the outcome is shown.
"""

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from durus_conformance import judge, large, records, wire
from durus_conformance.client import Calls, calls_of
from durus_conformance.dialogs import dialogs
from durus_conformance.questions import QUESTIONS, Question, Server
from durus_conformance.testee import Testee, TesteeError, TesteeRefusal

Json = Any
_FILES = {"shelf": "SHELF-1", "dfs20": "DFS20"}
_NEW_OIDS = 4
_INTERRUPTED = 40
"""A file of at most this many bytes may be one whose creation was interrupted."""


@dataclass(frozen=True)
class Statement:
    id: str
    document: str
    level: str


@dataclass
class World:
    """What a case works with: the testee, perhaps another one that serves, and an empty folder."""

    testee: Testee
    peer: Testee | None
    folder: Path
    deadline: float


@dataclass(frozen=True)
class Case:
    """One example for one operation."""

    document: str
    name: str
    operation: str
    level: str
    statements: tuple[str, ...]
    input: Json
    expected: Json
    run: Callable[[World], Json]
    file_format: str | None = None
    """The format of the file in it, None if there is none."""

    @property
    def id(self) -> str:
        return f"{self.document}/{self.name}/{self.operation}"

    @property
    def protocol(self) -> int | None:
        """The version of the wire protocol, None if there is none in it."""
        if self.operation == "steps-2" or self.document == "wire-2":
            return 2
        is_of_wire = operation_of(self) in ("serve", "client", "steps")
        return 1 if is_of_wire else None


class VectorsError(Exception):
    """The folder of the vectors does not hold what it must."""


def read_vectors(folder: Path) -> tuple[list[Statement], list[Case]]:
    """Return all statements and all cases. VectorsError if the folder can't be read."""
    try:
        statements = [Statement(**each) for each in json.loads((folder / "statements.json").read_text("utf-8"))]
        cases = [
            case
            for path in sorted(folder.glob("*.json"))
            if path.name != "statements.json"
            for vector in json.loads(path.read_text("utf-8"))
            for case in _cases(path.stem, vector)
        ]
        cases += [
            Case(each.document, each.name, "client-A", each.level, each.statements, each.name, each.calls.expected, run)
            for each in dialogs()
            for run in (partial(_client, each.calls),)
        ]
        cases += [
            Case("wire-2", each.name, "serve", "MUST", each.statements, each.shown, each.expected, partial(_ask, each))
            for each in QUESTIONS
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VectorsError(f"{folder}: these are not the vectors of the specification: {error!r}") from error
    return statements, cases


def _cases(document: str, vector: dict[str, Json]) -> Iterator[Case]:
    kind, expected = vector["kind"], vector.get("expected", {})
    if kind == "large":
        for each in large.examples(vector["name"], vector["recipe"]):
            yield from _cases(document, {**vector, **each})
        return

    def case(operation: str, run: Callable[[World], Json], expected: Json, more: tuple[str, ...] = ()) -> Case:
        shown = vector.get("recipe", vector.get("hex", vector.get("lines", vector.get("steps"))))
        if kind == "write":
            shown = {"file": shown, "commits": vector["expected"]["commits"]}
        statements = tuple(dict.fromkeys([*vector["statements"], *more]))
        file_format = _FILES.get(kind) or (_format_of(vector) if kind in ("write", "pack") else None)
        return Case(document, vector["name"], operation, vector["level"], statements, shown, expected, run, file_format)

    if kind == "record":
        call = partial(_call, hex=vector["hex"])
        yield case("read_state", partial(call, "read_state"), expected)
        split = (
            expected
            if expected.get("error") == "malformed"
            else {key: expected[key] for key in ("oid", "refs") if key in expected}
        )
        if split:
            yield case("read_record", partial(call, "read_record"), split)
        if "state" in expected and "PICKLE-13" not in vector["statements"]:  # the members of enums have two forms
            yield case(
                "write_record",
                partial(_write_record, vector["hex"]),
                _with_shared(expected, vector["hex"]),
                ("REC-7", "REC-10", "REC-11", "PICKLE-7", "PICKLE-21"),
            )
    elif kind in _FILES:
        data = bytes.fromhex(vector["hex"])
        offsets = expected.get("faults", [])
        other = expected.get("or")
        expected = _without(expected, "faults", "or")
        yield case("read_file", partial(_read_file, data, _FILES[kind], expected, other), expected)
        repaired = {"file": "written anew"} if judge.is_interrupted(data) else _repaired(expected)
        yield case("repair", partial(_repair, data), repaired, ("SHELF-26", "SHELF-27", "SHELF-49"))
        if expected.get("error") == "tail":
            run = partial(_repair_again, data, expected["offset"])
            yield case("repair-again", run, {"earlier": "kept", "tail": "kept"}, ("SHELF-26",))
            yield case("repair-locked", partial(_repair_locked, data), {"file": "unchanged"}, ("SHELF-21",))
        if "error" not in expected:
            oids = judge.new_oids(data, _NEW_OIDS)
            yield case(
                "new_oids", partial(_new_oids, data), {"oids": oids}, ("SHELF-52",) if kind == "shelf" else ("DFS-8",)
            )
        if expected.get("error") != "format":  # a check takes files of either kind
            offsets = [expected["offset"]] if "error" in expected else offsets
            more = ("SHELF-45",) if kind == "shelf" else ()
            any_will_do = expected.get("error") == "damage"
            yield case("check", partial(_check, data, offsets, any_will_do), {"faults": offsets}, more)
    elif kind == "write":
        data = bytes.fromhex(vector["hex"])
        yield case("write_file", partial(_write_file, data, expected), _without(expected, "commits", "format"))
        if len(data) > _INTERRUPTED and "error" not in expected:
            yield case(
                "write_file-locked", partial(_write_locked, data, expected), {"file": "unchanged"}, ("SHELF-21",)
            )
    elif kind == "pack":
        data = bytes.fromhex(vector["hex"])
        yield case("pack", partial(_pack, data, expected), expected)
        if "error" not in expected:
            beside = {"mode": "600", "earlier": "kept"}
            yield case("pack-beside", partial(_pack_beside, data), beside, ("SHELF-37", "SHELF-49"))
    elif kind == "steps":
        sees = [step.get("sees") for step in vector["steps"]]
        for protocol in 1, 2:
            yield case(f"steps-{protocol}", partial(_steps, vector["steps"], protocol), sees)
    elif kind == "exchange":
        yield case("serve", partial(_serve, vector["lines"]), vector["lines"])
        for letter, calls in calls_of(vector["lines"]).items():
            yield Case(
                document,
                vector["name"],
                f"client-{letter}",
                vector["level"],
                tuple(vector["statements"]),
                vector["lines"],
                calls.expected,
                partial(_client, calls),
            )
    else:
        raise ValueError(f"{vector['name']} has the kind {kind}")


def _format_of(vector: dict[str, Json]) -> str:
    """Return the format of the file that a testee writes or packs."""
    is_dfs20 = bytes.fromhex(vector["hex"]).startswith(judge.DFS20)
    return "DFS20" if is_dfs20 or vector["expected"].get("format") == "DFS20" else "SHELF-1"


def is_same(came: Json, expected: Json) -> bool:
    """Tell if two values are the same JSON: 1, 1.0 and true are not."""
    return json.dumps(came, sort_keys=True) == json.dumps(expected, sort_keys=True)


def operation_of(case: Case) -> str:
    """Return the operation of the testee that a case needs."""
    return case.operation.partition("-")[0]


def _call(operation: str, world: World, **arguments: Json) -> Json:
    return world.testee.call(operation, **arguments)


def _write_record(record: str, world: World) -> Json:
    came = world.testee.call("write_record", hex=record)
    written = came.get("hex")
    return _with_shared(records.contents(bytes.fromhex(written)), written) if isinstance(written, str) else came


def _with_shared(contents: Json, record: str) -> Json:
    """Return what a record holds, and where in it the same value is in several places [PICKLE-7]."""
    shared = records.shared(bytes.fromhex(record))
    return {**contents, "shared": shared} if shared else contents


def _new_oids(data: bytes, world: World) -> Json:
    path = _file(world, data)
    came = world.testee.call("new_oids", path=str(path), count=_NEW_OIDS)
    return came if path.read_bytes() == data else {**came, "file": "changed"}


def _file(world: World, data: bytes) -> Path:
    path = world.folder / "example.durus"
    path.write_bytes(data)
    return path


def _read_file(data: bytes, file_format: str, expected: Json, other: int | None, world: World) -> Json:
    """Return what the testee finds; what is expected if it gives the other offset that is right."""
    path = _file(world, data)
    came = world.testee.call("read_file", path=str(path), format=file_format)
    if path.read_bytes() != data:
        return {"error": "the file was changed", "came": came}
    return expected if other is not None and is_same(came, {**expected, "offset": other}) else came


def _check(data: bytes, offsets: list[int], any_will_do: bool, world: World) -> Json:
    came = world.testee.call("check", path=str(_file(world, data)))
    faults = came.get("faults")
    if not offsets or not isinstance(faults, list):
        return came
    if (any_will_do and faults) or all(each in faults for each in offsets):
        return {"faults": offsets}  # other faults can follow from one
    return came


def _repaired(expected: Json) -> Json:
    if expected.get("error") == "tail":
        return {"file": f"cut at {expected['offset']}", "tail": "kept"}
    return {"file": "unchanged"}


def _repair(data: bytes, world: World) -> Json:
    path = _file(world, data)
    path.chmod(0o600)
    world.testee.call("repair", path=str(path))
    found = path.read_bytes()
    if found == data:
        return {"file": "unchanged"}
    if not data.startswith(found):
        return {"file": "written anew" if judge.contents(found).get("objects") == {} else "changed"}
    others = [each for each in world.folder.iterdir() if each != path and each.is_file()]
    tail = "kept" if data[len(found) :] in [each.read_bytes() for each in others] else "lost"
    if any(each.stat().st_mode & 0o077 for each in others):
        tail = "in a file that others can read"
    return {"file": f"cut at {len(found)}", "tail": tail}


def _repair_again(data: bytes, offset: int, world: World) -> Json:
    """Repair a file beside which an earlier repair has kept something else."""
    path = _file(world, data)
    earlier = world.folder / f"{path.name}.cut-{offset}"
    earlier.write_bytes(b"an earlier tail")
    world.testee.call("repair", path=str(path))
    found = path.read_bytes()
    kept = [each.read_bytes() for each in world.folder.iterdir() if each != path and each.is_file()]
    return {
        "earlier": "kept" if b"an earlier tail" in kept else "lost",
        "tail": "kept" if found == data or data[len(found) :] in kept else "lost",
    }


def _without(value: dict[str, Json], *keys: str) -> Json:
    return {key: each for key, each in value.items() if key not in keys}


def _write_file(data: bytes, expected: Json, world: World) -> Json:
    path = world.folder / "example.durus"
    if data:
        path.write_bytes(data)
    came = world.testee.call(
        "write_file",
        path=str(path),
        format=expected.get("format", "SHELF-1"),
        commits=[_records(commit) for commit in expected["commits"]],
    )
    if "error" in came:
        found = path.read_bytes() if path.exists() else b""
        return came if found == data else {**came, "file": "changed"}
    found = path.read_bytes()
    is_whole = len(data) > 40
    kept = found.startswith(data) if is_whole else True
    result = {"outcomes": came.get("outcomes"), **judge.contents(found, new_from=len(data) if is_whole else 40)}
    return result if kept else {**result, "fault": "bytes that were there before have changed"}


def _write_locked(data: bytes, expected: Json, world: World) -> Json:
    commits = [_records(commit) for commit in expected["commits"]]
    return _call_locked(data, world, "write_file", format=expected.get("format", "SHELF-1"), commits=commits)


def _repair_locked(data: bytes, world: World) -> Json:
    return _call_locked(data, world, "repair")


def _call_locked(data: bytes, world: World, operation: str, **arguments: Json) -> Json:
    """Have the testee change a file that another program has locked."""
    path = _file(world, data)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with contextlib.suppress(TesteeRefusal):  # which is right
            world.testee.call(operation, path=str(path), **arguments)
    return {"file": "unchanged" if path.read_bytes() == data else "changed"}


def _records(commit: dict[str, Json]) -> dict[str, str]:
    """Return the records of a commit in hex, by oid."""
    found = {}
    for oid, record in commit.items():
        if isinstance(record, dict) and "hex" in record:
            found[oid] = record["hex"]
            continue
        data, refs = (record, []) if isinstance(record, str) else (record["data"], record["refs"])
        head = int(oid).to_bytes(8) + len(data).to_bytes(4) + data.encode()
        found[oid] = (head + b"".join(int(each).to_bytes(8) for each in refs)).hex()
    return found


def _pack(data: bytes, expected: Json, world: World) -> Json:
    path = _file(world, data)
    came = world.testee.call("pack", path=str(path))
    found = path.read_bytes()
    if "error" in came:
        return came if found == data else {**came, "file": "changed"}
    result = judge.contents(found, new_from=0)
    return {key: each for key, each in result.items() if key in expected or key == "fault"}


def _pack_beside(data: bytes, world: World) -> Json:
    """Have a file packed that only its owner may read; return who may then, and what became of the file from before."""
    path = _file(world, data)
    path.chmod(0o600)
    world.testee.call("pack", path=str(path))
    earlier = path.with_name(f"{path.name}.prepack")
    kept = not _has_hard_links(world.folder) or (earlier.is_file() and earlier.read_bytes() == data)
    return {"mode": f"{path.stat().st_mode & 0o777:o}", "earlier": "kept" if kept else "lost"}


def _has_hard_links(folder: Path) -> bool:
    one, other = folder / "a name", folder / "another name"
    one.touch()
    try:
        other.hardlink_to(one)
    except OSError:
        return False
    return True


def _steps(steps: list[Json], protocol: int, world: World) -> Json:
    if not world.testee.needs_peer:
        return _seen(steps, world.testee.call("steps", steps=_unseen(steps), protocol=protocol))
    with _Server(world.peer, world.folder) as address:
        came = world.testee.call("steps", steps=_unseen(steps), protocol=protocol, address=address)
    return _seen(steps, came)


def _unseen(steps: list[Json]) -> Json:
    return [_without(step, "sees") for step in steps]


def _seen(steps: list[Json], came: Json) -> Json:
    seen = came.get("seen")
    if not isinstance(seen, list):
        return came
    return [
        sorted(each, key=str) if step["step"] == "commit" and isinstance(each, list) else each
        for step, each in zip(steps, seen, strict=False)
    ]


class _Server:
    """The server of a testee, with an empty storage, for the time of a `with`."""

    def __init__(self, testee: Testee | None, folder: Path) -> None:
        if testee is None:
            raise TesteeError("it needs the server of another testee: give one with --peer")
        self._testee = testee
        self._folder = folder

    def __enter__(self) -> Json:
        return self._testee.call("serve", folder=str(self._folder)).get("address")

    def __exit__(self, *exception: object) -> None:
        try:
            self._testee.call("serve", stop=True)
        except TesteeError:
            if exception[0] is None:
                raise


def _serve(lines: list[list[str]], world: World) -> Json:
    with _Server(world.testee, world.folder) as address:
        if not isinstance(address, dict):
            raise TesteeError(f"its server has no address: {address!r}")
        any_serial = not world.testee.is_alone
        return wire.play(lines, lambda: wire.connect(address, world.deadline), any_serial)


def _ask(question: Question, world: World) -> Json:
    with _Server(world.testee, world.folder) as address, wire.connect(address, world.deadline) as connection:
        try:
            return question.ask(Server(connection))
        except (OSError, ValueError, KeyError, TypeError, wire.Difference) as error:
            return {"error": f"{type(error).__name__}: {error}"}


def _client(calls: Calls, world: World) -> Json:
    return calls.play(world.testee, world.deadline)
