"""`durus check`: verify a file and list its faults."""

import argparse
import sys
from contextlib import closing

from durus import trust
from durus.cli.options import add_inspected_argument, inspect
from durus.cli.report import Report, add_json_argument
from durus.error import DurusError, RecordError
from durus.files.inspection import Finding, Records
from durus.objects.trust import ALWAYS, GUARDED
from durus.oid import oid_to_int
from durus.records.contents import read_contents
from durus.records.record import data_of
from durus.text import without_password


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inspected_argument(parser, "verify")
    add_json_argument(parser)
    parser.add_argument(
        "--classes",
        action="store_true",
        help="list the classes and functions that its objects need, for the list `classes` of durus.open()",
    )


def run(options: argparse.Namespace) -> int:
    path = without_password(options.file)
    if "" not in sys.path:
        sys.path.insert(0, "")  # as in the console: a class in this folder is not missing
    report = Report(options, ("clean", "faults", "findings", "needs", "needed_methods"))
    faults = 0
    shown: list[dict[str, object]] = []
    with closing(inspect(options.file)) as inspection:
        for finding in inspection.findings():
            faults += finding.is_fault
            report.note(f"{path}: {finding}")
            if report.is_json:
                shown.append(_as_json(finding))
        figures = inspection.figures()
        result = f"{faults} fault{'s' if faults > 1 else ''}" if faults else "clean"
        report.note(f"{path}: {result}: {figures}", clean=not faults, faults=faults, findings=shown)
        report.note(
            None,
            format=inspection.format_name,
            sealed=figures.sealed,
            transactions=figures.transactions,
            objects=figures.objects,
        )
        if options.classes:
            try:
                _print_needs(path, inspection.records, report)
            except DurusError as error:  # of a file with faults
                report.note(f"{path}: the names that its objects need can't be told: {error}")
    report.end()
    return 1 if faults else 0


def _print_needs(path: str, records: Records, report: Report) -> None:
    """Report which names a list needs so that all objects are loaded completely. [CMD-14]"""
    names: set[str] = set()
    methods: set[str] = set()
    for oid, offset in records.offsets():
        try:
            contents = read_contents(data_of(records.read_entry(oid, offset)))
        except RecordError:  # it is among the findings
            continue
        names.update(f"{name.module}.{name.qualname}" for name in contents.names)
        methods |= contents.machine.methods
    needs, needed_methods = sorted(names - ALWAYS - GUARDED), sorted(methods)
    report.note(
        f"{path}: its objects need these names in the list `classes`: {len(needs)}",
        needs=needs,
        needed_methods=needed_methods,
    )
    for name in needs:
        report.note(f"  {name}{' (in durus.trust.standard)' if name in trust.standard else ''}")
    if methods:
        report.note(f"{path}: and these methods, each as module.Class.method: {', '.join(needed_methods)}")


def _as_json(finding: Finding) -> dict[str, object]:
    return {
        "offset": finding.offset,
        "oid": None if finding.oid is None else oid_to_int(finding.oid),
        "problem": finding.problem,
        "fault": finding.is_fault,
    }
