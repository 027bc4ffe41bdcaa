"""What servers do that this project's server does not do at will: parts, extensions, errors, faults, lost connections.

The kit plays them to a client, as it does the exchanges of the documents.
"""

from dataclasses import dataclass
from typing import Any

from durus_conformance.client import LOST, REFUSED, Call, Calls

Json = Any


@dataclass(frozen=True)
class Dialog:
    """The calls of a client, what they send and are answered, and what must come of them."""

    document: str
    name: str
    statements: tuple[str, ...]
    calls: Calls
    level: str = "MUST"


def _u32(number: int) -> bytes:
    return number.to_bytes(4)


def _oids(*oids: int) -> bytes:
    return b"".join(oid.to_bytes(8) for oid in oids)


def _message(kind: str, body: bytes = b"") -> bytes:
    return _u32(1 + len(body)) + kind.encode("latin1") + body


def _greeting(
    commit: int = 2**30, load: int = 2**18, accessed: int = 2**16, serial: int = 0, more: bytes = b""
) -> bytes:
    limits = _u32(commit) + _u32(load) + _u32(accessed) + _u32(10_000) + bytes(12) + b"\2"
    return _message("H", serial.to_bytes(8) + limits + more)


def _point(serial: int, *oids: int, flags: int = 0) -> bytes:
    return bytes([flags]) + serial.to_bytes(8) + _u32(len(oids)) + _oids(*oids)


def _record(oid: int, data: bytes = b"x", refs: bytes = b"") -> bytes:
    return _oids(oid) + _u32(len(data)) + data + refs


def _found(*records: bytes) -> bytes:
    return b"".join(b"O" + _u32(len(each)) + each for each in records)


def _new_oids(first: int, count: int = 1) -> Call:
    oids = range(first, first + count)
    turn = (_message("N", count.to_bytes(2)), _message("N", _oids(*oids)))
    return Call("new_oids", {"count": count}, [turn], {"oids": [str(each) for each in oids]})


def _load(oids: list[int], answer: bytes, *records: bytes | None) -> Call:
    shown = {"records": [each and each.hex() for each in records]} if records else REFUSED
    turn = (_message("L", bytes(2) + _oids(*oids)), answer)
    return Call("load", {"oids": [str(each) for each in oids]}, [turn], shown)


def _sync(answer: bytes | None, result: Json) -> Call:
    return Call("sync", {}, [(_message("S"), answer)], result)


def _commit_2(accessed: list[int], oid: int, turns: list[tuple[bytes, bytes | None]], result: Json) -> Call:
    arguments = {"accessed": [str(each) for each in accessed], "records": {str(oid): _record(oid).hex()}}
    return Call("commit", arguments, turns, result)


def _commit_message(serial: int, accessed: list[int], oid: int, flags: int = 0) -> bytes:
    width = 4 if accessed and max(accessed) < 2**32 else 8
    oids = b"".join(each.to_bytes(width) for each in sorted(accessed))
    head = bytes([flags]) + serial.to_bytes(8) + bytes([width]) + _u32(len(accessed)) + oids
    return _message("C", head + _u32(len(_record(oid))) + _record(oid))


_NOTHING_MORE = Call("sync", {}, [], REFUSED)
"""A call on a connection that must not be used any more: it fails, and sends nothing."""


def dialogs() -> list[Dialog]:
    """Return all dialogs, by document."""
    return [*_version_1(), *_version_2()]


def _version_1() -> list[Dialog]:
    def dialog(name: str, statements: str, *calls: Call) -> Dialog:
        return Dialog("wire", name, tuple(statements.split()), Calls(1, b"", list(calls)))

    record = _record(7)
    entry = _u32(8 + len(record)) + _oids(7) + record
    data = _u32(len(entry)) + entry
    records = {"7": record.hex()}
    sync = Call("sync", {}, [(b"S", _u32(1) + _oids(3))], {"invalid": ["3"]})
    many = [*range(300)]
    return [
        dialog(
            "more-oids-than-a-request-can-ask-for",
            "WIRE-3 WIRE-5",
            Call(
                "new_oids",
                {"count": 300},
                [(b"M\xff", _oids(*many[:255])), (b"M\x2d", _oids(*many[255:]))],
                {"oids": [str(each) for each in many]},
            ),
        ),
        dialog(
            "a-commit-that-is-given-up",
            "WIRE-9 WIRE-10 TXN-13",
            Call(
                "commit",
                {"accessed": ["5", "3"], "records": records},
                [(b"C", _u32(2) + _oids(3, 4)), (_u32(0), b"")],
                {"stored": False},
            ),
            sync,
        ),
        dialog(
            "a-connection-that-is-lost-during-a-commit",
            "WIRE-25",
            Call(
                "commit", {"accessed": [], "records": records}, [(b"C", _u32(0)), (data, LOST)], {"stored": "unknown"}
            ),
            _NOTHING_MORE,
        ),
        dialog(
            "a-connection-that-is-lost-before-a-commit",
            "WIRE-25",
            Call("commit", {"accessed": [], "records": records}, [(b"C", LOST)], REFUSED),
            _NOTHING_MORE,
        ),
        dialog(
            "a-connection-that-is-lost-during-an-answer",
            "WIRE-25",
            Call("load", {"oids": ["7"]}, [(b"L" + _oids(7), b"O" + _u32(14) + b"1234"), (b"", LOST)], REFUSED),
            _NOTHING_MORE,
        ),
        dialog(
            "a-status-that-there-is-not",
            "WIRE-25",
            Call(
                "commit", {"accessed": [], "records": records}, [(b"C", _u32(0)), (data, b"?")], {"stored": "unknown"}
            ),
            _NOTHING_MORE,
        ),
        dialog(
            "a-record-of-almost-4-gib-of-which-few-bytes-come",
            "WIRE-20 WIRE-25",
            Call("load", {"oids": ["7"]}, [(b"L" + _oids(7), b"O" + _u32(2**32 - 1) + record), (b"", LOST)], REFUSED),
            _NOTHING_MORE,
        ),
        dialog(
            "almost-4-gib-of-oids-of-which-few-come",
            "WIRE-20 WIRE-25",
            Call("sync", {}, [(b"S", _u32(2**29 + 1) + _oids(7)), (b"", LOST)], REFUSED),
            _NOTHING_MORE,
        ),
        dialog(
            "a-load-answer-that-there-is-not",
            "WIRE-25",
            Call("load", {"oids": ["7"]}, [(b"L" + _oids(7), b"?")], REFUSED),
            _NOTHING_MORE,
        ),
    ]


def _version_2() -> list[Dialog]:
    def dialog(name: str, statements: str, *calls: Call, greeting: bytes = _greeting(), **more: Any) -> Dialog:
        return Dialog("wire-2", name, tuple(statements.split()), Calls(2, greeting, list(calls), **more))

    def stored(*oids: int) -> Json:
        return {"stored": True, "invalid": [str(each) for each in oids]}

    nothing = {"invalid": list[str]()}
    empty_point = _message("Y", _point(1))
    return [
        dialog(
            "a-server-of-version-1",
            "WIRE2-1",
            Call("new_oids", {"count": 1}, [(b"N", _oids(9))], {"oids": ["9"]}),
            greeting=b"",
            is_older=True,
        ),
        dialog("a-version-that-there-is-not", "WIRE2-1 WIRE-25", spoken=7),
        dialog("a-longer-first-message", "WIRE2-2", _new_oids(1), greeting=_greeting(more=b"abc")),
        dialog(
            "the-serial-of-the-first-message",
            "WIRE2-2 WIRE2-20",
            _commit_2([], 7, [(_commit_message(5, [], 7), _message("C", _point(6)))], stored()),
            _commit_2([], 7, [(_commit_message(6, [], 7), _message("C", _point(8, 3)))], stored(3)),
            _commit_2([], 7, [(_commit_message(8, [], 7), _message("C", _point(9)))], stored()),
            greeting=_greeting(serial=5),
        ),
        dialog(
            "a-server-that-is-still-there",
            "WIRE2-33",
            _sync(_message("W") + _message("W") + _message("Y", _point(1, 3)), {"invalid": ["3"]}),
        ),
        dialog(
            "messages-of-later-versions",
            "WIRE2-4",
            _sync(_message("\x80") + _message("\xff", b"more") + _message("Y", _point(1, 3)), {"invalid": ["3"]}),
            _new_oids(1),
        ),
        dialog("a-message-that-there-is-not", "WIRE2-4 WIRE2-41 WIRE-25", _sync(_message("?"), REFUSED), _NOTHING_MORE),
        dialog("an-answer-of-no-bytes", "WIRE2-3 WIRE2-41 WIRE-25", _sync(_u32(0), REFUSED), _NOTHING_MORE),
        dialog(
            "a-record-that-extends-beyond-its-message",
            "WIRE2-11 WIRE2-41 WIRE-25",
            _load([1], _message("R", b"O" + _u32(2**32 - 1) + _record(1))),
            _NOTHING_MORE,
        ),
        dialog(
            "fewer-new-oids-than-were-asked-for",
            "WIRE2-12 WIRE2-41 WIRE-25",
            Call("new_oids", {"count": 2}, [(_message("N", b"\0\2"), _message("N", _oids(1)))], REFUSED),
            _NOTHING_MORE,
        ),
        dialog(
            "a-point-of-more-oids-than-it-has",
            "WIRE2-13 WIRE2-41 WIRE-25",
            _sync(_message("Y", bytes(9) + _u32(2**29) + _oids(7)), REFUSED),
            _NOTHING_MORE,
        ),
        dialog(
            "an-answer-to-another-request",
            "WIRE2-41 WIRE-25",
            _sync(_message("N", _oids(1)), REFUSED),
            _NOTHING_MORE,
        ),
        dialog(
            "an-answer-in-parts",
            "WIRE2-11",
            _load(
                [1, 2, 3],
                _message("r", _found(_record(1))) + _message("r", b"K" + _found(_record(3))) + _message("R"),
                _record(1),
                None,
                _record(3),
            ),
            _new_oids(4),
        ),
        dialog(
            "records-in-addition",
            "WIRE2-11",
            _load([1, 2], _message("R", _found(_record(1), _record(2), _record(3))), _record(1), _record(2)),
        ),
        dialog("too-few-records", "WIRE2-11 WIRE2-41", _load([1, 2], _message("R", _found(_record(1)))), _NOTHING_MORE),
        dialog(
            "an-error-after-which-the-client-continues",
            "WIRE2-40",
            Call("pack", {}, [(_message("P", b"\1"), _message("E", b"\7you may not"))], REFUSED),
            Call("pack", {}, [(_message("P", b"\1"), _message("E", b"\x63something new"))], REFUSED),
            _new_oids(1),
        ),
        dialog("any-oid-may-be-invalid", "WIRE2-13", _sync(_message("Y", _point(1, flags=1)), {"invalid": "any"})),
        dialog(
            "a-flag-of-later-versions",
            "WIRE2-13",
            _sync(_message("Y", _point(1, 3, flags=2)), {"invalid": ["3"]}),
        ),
        dialog(
            "accessed-oids-in-ascending-order",
            "WIRE2-20",
            _commit_2([9, 2, 1], 7, [(_commit_message(0, [1, 2, 9], 7), _message("C", _point(1)))], stored()),
        ),
        dialog(
            "an-accessed-oid-of-33-bits",
            "WIRE2-20",
            _commit_2([2**32, 1], 7, [(_commit_message(0, [1, 2**32], 7), _message("C", _point(1)))], stored()),
        ),
        dialog(
            "more-accessed-oids-than-the-limit",
            "WIRE2-21",
            _commit_2(
                [1, 2],
                7,
                [
                    (_message("T", b"\0"), _message("Y", _point(3, 4))),
                    (_commit_message(3, [], 7, flags=1), _message("C", _point(5, 6))),
                ],
                stored(4, 6),
            ),
            greeting=_greeting(accessed=1),
        ),
        dialog(
            "more-accessed-oids-than-the-limit-and-a-conflict",
            "WIRE2-21 WIRE2-16",
            _commit_2(
                [1, 2],
                7,
                [(_message("T", b"\0"), _message("Y", _point(3, 2))), (_message("U"), b"")],
                {"stored": False},
            ),
            _sync(empty_point, nothing),
            greeting=_greeting(accessed=1),
        ),
        dialog(
            "more-oids-than-a-load-can-have",
            "WIRE2-2",
            Call(
                "load",
                {"oids": ["1", "2", "3", "4", "5"]},
                [
                    (_message("L", bytes(2) + _oids(1, 2)), _message("R", _found(_record(1)) + b"K")),
                    (_message("L", bytes(2) + _oids(3, 4)), _message("R", _found(_record(3), _record(4)))),
                    (_message("L", bytes(2) + _oids(5)), _message("R", b"I")),
                ],
                {"records": [_record(1).hex(), None, _record(3).hex(), _record(4).hex(), "invalid"]},
            ),
            _new_oids(6),
            greeting=_greeting(load=2),
        ),
        dialog(
            "a-commit-at-the-limit-and-one-beyond-it",
            "WIRE2-2",
            _commit_2([], 7, [(_commit_message(0, [], 7), _message("C", _point(1)))], stored()),
            Call("commit", {"accessed": [], "records": {"7": _record(7, b"xy").hex()}}, [], REFUSED),
            _new_oids(8),
            greeting=_greeting(commit=4 + len(_record(7))),
        ),
        dialog(
            "a-connection-that-is-lost-during-a-commit-of-version-2",
            "WIRE2-41 WIRE-25",
            _commit_2([], 7, [(_commit_message(0, [], 7), LOST)], {"stored": "unknown"}),
            _NOTHING_MORE,
        ),
        dialog(
            "a-connection-that-is-lost-in-version-2",
            "WIRE2-41 WIRE-25",
            _sync(LOST, REFUSED),
            _NOTHING_MORE,
        ),
    ]
