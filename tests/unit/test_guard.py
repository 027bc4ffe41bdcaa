"""The guard against slow-downs: what it counts, and when it tells."""

from bench.guard import TOLERANCE, compare, counting
from durus.connection import Connection
from durus.storage import MemoryStorage


def instructions_of(commits: int) -> int:
    connection = Connection(MemoryStorage())
    with counting() as counted:
        for number in range(commits):
            connection.get_root()["number"] = number
            connection.commit()
    return counted[0]


def test_what_the_package_does_is_counted() -> None:
    for _ in range(3):
        instructions_of(2)  # so that what is done once is done
    one, two, again = instructions_of(1), instructions_of(2), instructions_of(1)
    assert one == again
    assert 0 < one < two


def test_only_the_package_is_counted() -> None:
    with counting() as counted:
        sum(number for number in range(1000))
    assert counted == [0]


def test_more_than_the_room_is_told() -> None:
    baseline = {"C": {"insert": 100.0, "pack": 100.0}}
    assert compare({"C": {"insert": 100 * TOLERANCE, "pack": 20.0}}, baseline) == []
    assert compare({"C": {"insert": 100 * TOLERANCE + 1, "pack": 20.0}}, baseline) == [
        f"C, insert: {100 * TOLERANCE + 1:g} instructions an object, 100 before"
    ]


def test_what_only_one_side_has_is_told() -> None:
    assert compare({"C": {"new": 1.0}}, {"C": {"old": 1.0}, "Python": {"old": 1.0}}) == [
        "C, new: is not in the baseline",
        "C, old: is not in this run",
        "Python, old: is not in this run",
    ]
