"""Deliberate faults of the port to JavaScript, each of which durus-conformance must find.

python -m tests.model.port_faults              makes each fault in a copy of the port, and runs the kit against it
python -m tests.model.port_faults TEXT ...     only those that are called so, in part, or are in the file of this name

ports/javascript/faults.toml has the faults. The kit runs against the port alone: the tests of the port do not count.
It begins with the cases of the documents that the changed file is about, and ends with the first broken case. A
fault that the kit does not find needs a reason in the list, and one with a reason must not be found.
"""

import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from durus_conformance.__main__ import run
from durus_conformance.cases import Case, read_vectors
from durus_conformance.testee import Testee, TesteeError

ROOT = Path(__file__).resolve().parent.parent.parent
PORT = ROOT / "ports" / "javascript"
FAULTS = PORT / "faults.toml"
PEER = [sys.executable, str(ROOT / "conformance" / "testees" / "durus_testee.py")]
DEADLINE = 10.0
JOBS = 2

FIRST = {
    "bytes.js": ["record", "shelf", "file-storage-2"],
    "utf8.js": ["pickle"],
    "pickle_reader.js": ["pickle", "record"],
    "pickle_writer.js": ["pickle", "record"],
    "record.js": ["record", "pickle"],
    "shelf.js": ["shelf"],
    "shelf_seal.js": ["shelf"],
    "dfs20.js": ["file-storage-2"],
    "file_storage.js": ["shelf", "file-storage-2"],
    "client_storage.js": ["wire-2", "wire"],
    "wire_stream.js": ["wire", "wire-2"],
    "wire1.js": ["wire"],
    "wire2.js": ["wire-2"],
    "persistent.js": ["transactions", "object-model"],
    "connection.js": ["transactions", "object-model"],
}
"""Module of the port -> the documents whose cases run first."""


class Fault(NamedTuple):
    """A piece of source that is replaced; it must occur in the file exactly once."""

    what: str
    file: str
    old: str
    new: str
    survives: str = ""
    """Why the kit can't find it."""


class Outcome(NamedTuple):
    fault: Fault
    found_by: str
    """The id of the case that was broken, or an empty text."""

    @property
    def is_as_expected(self) -> bool:
        return bool(self.found_by) != bool(self.fault.survives)


def read_faults() -> list[Fault]:
    """Return the faults of the list."""
    return [Fault(**each) for each in tomllib.loads(FAULTS.read_text("utf-8"))["fault"]]


def stale_faults(faults: Sequence[Fault]) -> list[str]:
    """Return the faults that can't be made, because the port has changed."""
    return [
        each.what
        for each in faults
        if (PORT / "src" / each.file).read_text("utf-8").count(each.old) != 1 or each.old == each.new
    ]


def make(fault: Fault | None, folder: Path) -> Path:
    """Copy the port into a folder, with this fault; return its testee."""
    shutil.copytree(PORT, folder, ignore=shutil.ignore_patterns("test"))
    if fault is not None:
        path = folder / "src" / fault.file
        path.write_text(path.read_text("utf-8").replace(fault.old, fault.new), "utf-8")
    return folder / "testee.js"


def in_order(cases: Sequence[Case], file: str) -> list[Case]:
    """Return the cases, those first that are about a file of the port."""
    first = FIRST.get(file, [])
    return sorted(cases, key=lambda case: first.index(case.document) if case.document in first else len(first))


def find(fault: Fault | None, cases: Sequence[Case]) -> str:
    """Run the cases against the port with a fault; return the first one that is broken, or an empty text."""
    with tempfile.TemporaryDirectory(prefix="durus-port-") as folder:
        testee = Testee(["node", str(make(fault, Path(folder, "port")))], DEADLINE)
        peer = Testee(PEER, DEADLINE)
        try:
            testee.start()
            peer.start()
            results = run(cases, testee, peer, DEADLINE)
            return next((each.case.id for each in results if each.outcome == "broken"), "")
        except TesteeError as error:
            raise RuntimeError(f"{fault.what if fault else 'the port'}: {error}") from error
        finally:
            testee.close()
            peer.close()


def outcomes(faults: Sequence[Fault]) -> Iterator[Outcome]:
    """Yield what came of each fault, in their order. RuntimeError if the kit breaks the port without a fault."""
    _, cases = read_vectors(ROOT / "spec" / "vectors")
    broken = find(None, cases)
    if broken:
        raise RuntimeError(f"the port itself breaks {broken}")

    def outcome(fault: Fault) -> Outcome:
        return Outcome(fault, find(fault, in_order(cases, fault.file)))

    with ThreadPoolExecutor(JOBS) as jobs:
        yield from jobs.map(outcome, faults)


def main(texts: Sequence[str]) -> int:
    faults = read_faults()
    if stale := stale_faults(faults):
        print("\n".join(f"STALE: {what}: its text is not in the port exactly once" for what in stale))
        return 1
    chosen = [each for each in faults if not texts or any(text in each.what or text == each.file for text in texts)]
    came = []
    for each in outcomes(chosen):
        came.append(each)
        mark = "" if each.is_as_expected else "UNEXPECTED "
        result = f"found by {each.found_by}" if each.found_by else f"not found: {each.fault.survives or 'no reason'}"
        print(f"{mark}{each.fault.file}: {each.fault.what}: {result}", flush=True)
    found = sum(bool(each.found_by) for each in came)
    explained = sum(not each.found_by and bool(each.fault.survives) for each in came)
    print(f"{len(came)} faults: {found} found, {explained} explained, {len(came) - found - explained} neither")
    return 0 if all(each.is_as_expected for each in came) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
