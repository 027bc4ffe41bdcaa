"""What the data of a record contains, read without its classes. For checks, lists and tools."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from durus.error import RecordError
from durus.records.pickle_machine import Name, Naming, PickleMachine
from durus.records.present_names import present_name
from durus.records.record import parse_class_pickle
from durus.records.stored_state import decompress_state


class Contents(NamedTuple):
    """The two pickles of a record, read up to their ends."""

    machine: PickleMachine
    state_start: int
    """The offset of the state pickle in the pickles of the machine."""
    class_name: str
    """Module and qualified name, joined by a dot."""

    @property
    def refs(self) -> set[bytes]:
        """The oids that the state refers to."""
        return {reference.oid for reference in self.machine.references}

    @property
    def names(self) -> set[Name]:
        """What must be importable to load the object: its class, and what values in the state name, as in Python 3."""
        own = (_present(naming) for naming in self.machine.namings if naming.step.start < self.state_start)
        return self.value_names.union(own)

    @property
    def value_names(self) -> set[Name]:
        """The names of values in the state, without the class of the object and the classes of references."""
        own = {reference.cls for reference in self.machine.references}
        in_state = [naming for naming in self.machine.namings if naming.step.start >= self.state_start]
        return {_present(naming) for naming in in_state if naming.name not in own}


def _present(naming: Naming) -> Name:
    """Return a name as it is in Python 3; pickles of protocols 0 to 2 have names of Python 2."""
    return naming.name if naming.protocol > 2 else Name(*present_name(*naming.name))


def split_data(data: bytes) -> tuple[bytes, bytes]:
    """Return the class pickle and the state pickle, decompressed, in `data` of a record.

    RecordError if it does not start with a pickle.
    """
    known = parse_class_pickle(data)
    if known is not None:
        end = known.end
    else:
        machine = PickleMachine(data)
        with _as_record_error():
            machine.load()
        end = machine.index
    return data[:end], decompress_state(data[end:])


def read_contents(data: bytes) -> Contents:
    """Return what the `data` of a record contains; RecordError if it can't be read."""
    class_pickle, state_pickle = split_data(data)
    machine = PickleMachine(class_pickle + state_pickle)
    with _as_record_error():
        cls = machine.load()
        if not isinstance(cls, Name):
            raise RecordError("its data has something else where a class is expected")
        machine.load()
    if machine.index < len(machine.pickles):
        raise RecordError("its data continues after the state")
    return Contents(machine, len(class_pickle), f"{cls.module}.{cls.qualname}")


def class_name_of(data: bytes) -> str:
    """Return the class that `data` of a record names, with a dot after its module, or "(unreadable)"."""
    known = parse_class_pickle(data)
    if known is not None:
        return f"{known.module}.{known.name}"
    try:
        return read_contents(data).class_name
    except RecordError:
        return "(unreadable)"


@contextlib.contextmanager
def _as_record_error() -> Iterator[None]:
    try:
        yield
    except RecordError:  # which is a ValueError
        raise
    except (IndexError, KeyError, ValueError) as error:  # raised by the machine for bytes that are not a pickle
        raise RecordError(f"its data can't be read: {type(error).__name__}: {error}") from error
