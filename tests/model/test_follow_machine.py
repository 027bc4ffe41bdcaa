"""Readers of a file follow its writer through random commits, packs, repairs and partial appends. [SHELF-54]

The oracle is the list of the states after each commit.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.oid import oid_from_int
from durus.records.record import pack_record

OIDS = [oid_from_int(number) for number in range(6)]
State = dict[bytes, bytes]


class FollowMachine(RuleBasedStateMachine):
    """One writer and any number of readers of one file."""

    make: Any = FileStorage

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "f")
        self.states: list[State] = []
        self.readers: list[tuple[Any, int]] = []
        """Each with the number of the state that it must show."""
        self.writer: Any = None

    @initialize()
    def begin(self) -> None:
        self.writer = self.make(self.path, durability="os")
        self.commit(set(range(len(OIDS))), 0)

    @rule(numbers=st.sets(st.integers(0, len(OIDS) - 1), min_size=1), value=st.integers(0, 255))
    def commit(self, numbers: set[int], value: int) -> None:
        state = dict(self.states[-1]) if self.states else {}
        self.writer.begin()
        for number in numbers:
            oid = OIDS[number]
            state[oid] = pack_record(oid, bytes([value]) * (value + 1), b"" if number else b"".join(OIDS[1:]))
            self.writer.store(oid, state[oid])
        self.writer.end()
        self.states.append(state)

    @rule()
    def pack(self) -> None:
        self.writer.pack()

    @rule()
    def reopen(self) -> None:
        self.writer.close()
        self.writer = self.make(self.path, durability="os")

    @rule()
    def open_reader(self) -> None:
        self.readers.append((self.make(self.path, readonly=True), len(self.states) - 1))

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def sync(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.readers) - 1))
        reader, shown = self.readers[number]
        invalid = reader.sync()
        new, old = self.states[-1], self.states[shown]
        assert invalid is None or {oid for oid in OIDS if new[oid] != old[oid]} <= set(invalid)
        self.readers[number] = reader, len(self.states) - 1

    @precondition(lambda self: self.readers)
    @rule(size=st.integers(1, 40), data=st.data())
    def look_at_a_part_of_an_append(self, size: int, data: st.DataObject) -> None:
        """What the writer appends next reaches the readers in two parts."""
        before = self.path.stat().st_size
        self.commit({1}, size)
        whole = self.path.read_bytes()
        part = min(before + size, len(whole) - 1)
        os.truncate(self.path, part)
        number = data.draw(st.integers(0, len(self.readers) - 1))
        reader, _ = self.readers[number]
        state = len(self.states) - 2
        assert reader.sync() is None or self.shows(reader, self.states[state])
        self.readers[number] = reader, state
        with open(self.path, "ab") as file:
            file.write(whole[part:])

    @invariant()
    def each_reader_shows_its_state(self) -> None:
        for reader, shown in self.readers:
            assert self.shows(reader, self.states[shown])

    def shows(self, reader: Any, state: State) -> bool:
        return {oid: reader.load(oid) for oid in OIDS} == state

    def teardown(self) -> None:
        for reader, _ in self.readers:
            reader.close()
        if self.writer is not None:
            self.writer.close()
        self.folder.cleanup()


class Follow2Machine(FollowMachine):
    make = FileStorage2


TestShelf = pytest.mark.spec("SHELF-54", "SHELF-55", "SHELF-57")(FollowMachine.TestCase)
TestDfs20 = pytest.mark.spec("SHELF-54", "SHELF-55", "SHELF-57")(Follow2Machine.TestCase)
