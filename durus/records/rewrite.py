"""Changes class paths and oids in the data of a record, and nothing else. Statements REC-20 to REC-23.

Nothing that a pickle names is imported or run. Changes are made in place, or right after the step: memo entries keep
their numbers and their values.
"""

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # what pickle itself uses
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from durus.error import RecordError
from durus.records.contents import Contents, read_contents, split_data
from durus.records.pickle_machine import FRAME, REDUCE, STACK_GLOBAL, Name, PickleMachine, Step, Value
from durus.records.stored_state import compress_state

Rename = Callable[[str, str], tuple[str, str]]
"""Takes module and qualified name of a class, and returns the new ones."""

Renumber = Callable[[bytes], bytes]
"""Takes the oid of a reference, and returns the new one."""

_SHORT_BINBYTES = b"C\x08"
_NESTED_NAMES_FROM = 4
"""The first protocol whose GLOBAL can name a nested class."""
_OWN_NAMES_FROM = 3
"""The first protocol that does not have the names of Python 2."""


class _Edit(NamedTuple):
    """The replacement for some bytes of the pickles."""

    start: int
    end: int
    new: bytes


def rename_classes(data: bytes, rename: Rename) -> bytes:
    """Return `data` with other class paths. [REC-20] RecordError if it can't be read, or can't hold the new ones."""
    contents = read_contents(data)
    edits = list(_name_edits(contents, rename))
    return _edited(contents.machine.pickles, contents.state_start, contents.machine.frames, edits) if edits else data


def renumber_references(data: bytes, renumber: Renumber) -> bytes:
    """Return `data` with other oids in its references. [REC-21] RecordError if it can't be read."""
    contents = read_contents(data)
    edits = list(_reference_edits(contents, renumber))
    return _edited(contents.machine.pickles, contents.state_start, contents.machine.frames, edits) if edits else data


def replace_steps(data: bytes, codes: Collection[int], new: Iterable[bytes | None]) -> bytes:
    """Return `data` with replacements for the steps that have these codes, in order; None keeps a step."""
    class_pickle, state_pickle = split_data(data)
    machine = PickleMachine(class_pickle + state_pickle)
    steps = [*machine.steps(), *machine.steps()]
    concerned = [step for step in steps if step.code in codes]
    edits = [_Edit(step.start, step.end, one) for step, one in zip(concerned, new, strict=True) if one is not None]
    frames = [step for step in steps if step.code == FRAME]
    return _edited(machine.pickles, len(class_pickle), frames, edits) if edits else data


def _name_edits(contents: Contents, rename: Rename) -> Iterator[_Edit]:
    for step, protocol, name, owner in contents.machine.namings:
        new = Name(*rename(*name))
        present = name
        if owner is not None:  # its new name may have done all already
            new_owner = Name(*rename(*owner))
            present = Name(new_owner.module, new_owner.qualname + name.qualname[len(owner.qualname) :])
        if new == present:
            continue
        _check_name(new, protocol)
        lines = f"{new.module}\n{new.qualname}\n".encode()
        if step.code in (STACK_GLOBAL, REDUCE):  # take two values off the stack, which may be used elsewhere, too
            yield _Edit(step.start, step.end, b"00c" + lines)
        else:
            yield _Edit(step.start + 1, step.end, lines)


def _check_name(name: Name, protocol: int) -> None:
    """Raise RecordError unless a pickle of this protocol can name a class in this way. [REC-23]"""
    if "." in name.qualname and protocol < _NESTED_NAMES_FROM:
        raise RecordError(
            f"its pickle of protocol {protocol} can't name {name.qualname!r}, a nested class of {name.module!r}"
        )
    if protocol < _OWN_NAMES_FROM and (name.module in IMPORT_MAPPING or name in NAME_MAPPING):
        raise RecordError(
            f"its pickle of protocol {protocol} can't name {name.module}.{name.qualname}, which Python takes for that "
            "of a module of Python 2"
        )


def _reference_edits(contents: Contents, renumber: Renumber) -> Iterator[_Edit]:
    machine = contents.machine
    for reference in machine.references:
        value = reference.oid_value
        if not reference.is_pair_made_here or value.start in machine.fetched_pairs:
            raise RecordError("a reference in its data is not created where it is used, so it can't be changed")
        new = _SHORT_BINBYTES + renumber(reference.oid)
        if _is_step_of_its_own(value, machine):
            yield _Edit(value.start, value.start + len(new), new)
        else:  # the value may be used elsewhere, too: take it off the stack again, and put the new one there
            yield _Edit(reference.class_start, reference.class_start, b"0" + new)


def _is_step_of_its_own(value: Value, machine: PickleMachine) -> bool:
    """Return whether an oid is created by one step in its place, and used nowhere else."""
    is_made_here = isinstance(value.known, Step) and value.known.start == value.start
    is_short = machine.pickles.startswith(_SHORT_BINBYTES, value.start)
    return is_made_here and is_short and value.start not in machine.fetched


def _edited(pickles: bytes, state_start: int, frames: Iterable[Step], edits: Iterable[_Edit]) -> bytes:
    """Return the data with these edits, and without the frames, whose lengths would be wrong."""
    no_frames = [_Edit(frame.start, frame.end, b"") for frame in frames]
    parts: tuple[list[bytes], list[bytes]] = [], []
    done = 0
    for edit in sorted([*edits, *no_frames, _Edit(state_start, state_start, b"")]):
        parts[done >= state_start].append(pickles[done : edit.start])
        parts[edit.start >= state_start].append(edit.new)
        done = edit.end
    parts[1].append(pickles[done:])
    return b"".join(parts[0]) + compress_state(b"".join(parts[1]))
