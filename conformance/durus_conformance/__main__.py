"""The command durus-conformance: run the cases against a testee, and report."""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from durus_conformance import __version__, wire
from durus_conformance.cases import Case, VectorsError, World, is_same, operation_of, read_vectors
from durus_conformance.questions import NotOffered
from durus_conformance.report import ListError, Report, Result, read_known_failures
from durus_conformance.server import Server
from durus_conformance.testee import Testee, TesteeError

_PACKAGED = Path(__file__).resolve().parent / "vectors"
_IN_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "spec" / "vectors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the testee does all that it must, 1 if not, 2 if that could not be found out."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.testee is None) == (options.server is None):
        parser.error("give the command of a testee or --server, and not both")
    testee = (
        Testee(shlex.split(options.testee), options.deadline)
        if options.server is None
        else Server(options.server, options.deadline)
    )
    peer = Testee(shlex.split(options.peer), options.deadline) if options.peer else None
    started = [each for each in (testee, peer) if each]
    try:
        statements, cases = read_vectors(options.vectors)
        known = read_known_failures(options.known_failures) if options.known_failures else []
        for each in started:
            each.start()
        results = list(run(cases, testee, peer, options.deadline, options.only))
    except (VectorsError, ListError, TesteeError) as error:
        print(f"durus-conformance: {error}", file=sys.stderr)
        return 2
    finally:
        for each in started:
            each.close()
    report = Report(testee.name, statements, results, known)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", "utf-8")
    print("\n".join(report.lines(options.all)))
    return 0 if report.is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="durus-conformance", description="Test whether a program follows the specification of Durus."
    )
    parser.add_argument(
        "testee", metavar="COMMAND", nargs="?", help="the program to test, with its arguments, as one word"
    )
    parser.add_argument("--server", metavar="HOST:PORT", help="test a server that runs, or the path of its Unix socket")
    parser.add_argument("--peer", metavar="COMMAND", help="another testee, whose server the clients of the first use")
    parser.add_argument(
        "--vectors", type=Path, metavar="FOLDER", default=_vectors(), help="in place of those of the kit"
    )
    parser.add_argument("--known-failures", type=Path, metavar="FILE", help="ids of cases that are known to be broken")
    parser.add_argument("--only", metavar="TEXT", help="run only the cases whose id contains this")
    parser.add_argument("--all", action="store_true", help="list the statements of all documents, also untried ones")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report for machines")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", default=10.0, help="for each answer (10)")
    parser.add_argument("--version", action="version", version=f"durus-conformance {__version__}")
    return parser


def _vectors() -> Path:
    return _PACKAGED if _PACKAGED.is_dir() else _IN_THE_REPOSITORY


def run(
    cases: Iterable[Case], testee: Testee, peer: Testee | None, deadline: float, only: str | None = None
) -> Iterator[Result]:
    """Yield the result of each case. Whatever a testee does breaks a case, and not the run."""
    for case in cases:
        operation = operation_of(case)
        lacks_peer = operation == "steps" and testee.needs_peer and peer is None
        is_beyond = (case.protocol is not None and case.protocol not in testee.protocols) or (
            case.file_format is not None and case.file_format not in testee.formats
        )
        is_other = operation not in testee.operations or bool(only and only not in case.id)
        if is_other or lacks_peer or is_beyond or (not testee.is_alone and wire.depends_on_data(case.input)):
            yield Result(case, "not tried", None)
            continue
        with tempfile.TemporaryDirectory(prefix="durus-") as folder:
            try:
                came = case.run(World(testee, peer, Path(folder), deadline))
            except NotOffered:
                yield Result(case, "not tried", None)
                continue
            except TesteeError as error:
                yield Result(case, "broken", None, str(error))
                continue
        yield Result(case, "held" if is_same(came, case.expected) else "broken", came)


if __name__ == "__main__":
    sys.exit(main())
