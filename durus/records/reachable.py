"""Finds what objects reach by references, in small steps."""

from collections.abc import Callable, Iterator

from durus.error import FormatError
from durus.oid import format_oid
from durus.progress import STEP_RECORDS, STEP_REFS, Progress
from durus.records.record import gen_refs
from durus.text import command


def mark_reachable(
    pending: list[bytes],
    reached: set[bytes],
    read: Callable[[bytes], bytes | None],
    require: Callable[[bytes, bytes], None] = lambda oid, referrer: None,
) -> Iterator[Progress]:
    """Add to `reached` the oids in `pending` and all that they reach, without following those already in `reached`.

    read(oid) returns a record, or None for an object whose references do not count. require(oid, referrer) is called
    for each new oid, and raises if the object must exist and does not. Each yield ends a step.
    """
    reached.update(pending)
    work = 0
    while pending:
        referrer = pending.pop()
        record = read(referrer)
        work += STEP_REFS // STEP_RECORDS
        for ref in () if record is None else gen_refs(record):
            if ref not in reached:
                require(ref, referrer)
                reached.add(ref)
                pending.append(ref)
            work += 1
            if work >= STEP_REFS:
                work = 0
                yield Progress("mark", len(reached), None)
        if work >= STEP_REFS:
            work = 0
            yield Progress("mark", len(reached), None)


def dangling_reference_error(referrer: bytes, oid: bytes, path: str | None = None) -> FormatError:
    """Return the error for a pack of the file at `path`, or of memory, in which `referrer` refers to nothing."""
    problem = f"the object {format_oid(referrer)} refers to oid {format_oid(oid)}, which does not exist"
    if path is None:
        return FormatError(f"{problem}, so nothing is packed; remove that reference first")
    return FormatError(
        f"{path}: {problem}, so the file is not packed; remove that reference first "
        f"({command('check', path)} lists all)"
    )
