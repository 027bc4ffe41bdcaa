"""No change of the C extension without one of the Python that it stands for, and none of that without one of C."""

import pytest

from tests import twins

C = """
/* Stands for Tree.find, search: returns the index, or -1. */
static int
find(int key)
{
    return key; /* as it is */
}

/* Stands for a part of search. */
static int
step(int key)
{
    return key + 1;
}
"""
PYTHON = '''
class Tree:
    def find(self, key):
        """Return the index."""
        return key  # as it is

def search(key):
    return key
'''


def test_the_c_extension_and_the_python_were_changed_together() -> None:
    alone, others = twins.differences(twins.twins_of_the_sources(), twins.known_twins())
    assert not alone, "change the other one likewise, then run `python -m tests.twins --write`"
    assert not others, "run `python -m tests.twins --write`"


def test_every_function_of_c_with_a_twin_is_seen() -> None:
    for name in twins.PAIRS:
        text = (twins.ROOT / name).read_text("utf-8")
        assert text.count("/* Stands for") == len(twins._FUNCTION.findall(text))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("return key;", "return -key;", ["Tree.find: its twin in C was changed", "search: its twin in C was changed"]),
        ("key + 1", "key + 2", ["search: its twin in C was changed"]),
        ("return key  #", "return -key  #", ["Tree.find: the Python was changed"]),
        ("def search(key):\n    return key", "def search(key):\n    return 1", ["search: the Python was changed"]),
        ("as it is", "as it was", []),
        ("Return the index.", "Return it.", []),
    ],
)
def test_a_change_of_one_of_two_is_told_of(old: str, new: str, told: list[str]) -> None:
    known = twins.find_twins(C, PYTHON)
    found = twins.find_twins(C.replace(old, new), PYTHON.replace(old, new))
    assert [line.split(",")[0] for line in twins.differences(found, known)[0]] == told


def test_a_change_of_both_is_no_change_of_one_alone() -> None:
    changed = twins.find_twins(C.replace("key;", "0;"), PYTHON.replace("return key", "return 0"))
    alone, others = twins.differences(changed, twins.find_twins(C, PYTHON))
    assert (alone, len(others)) == ([], 2)


def test_c_that_stands_for_nothing_is_an_error() -> None:
    with pytest.raises(KeyError):
        twins.find_twins(C, PYTHON.replace("search", "look"))
