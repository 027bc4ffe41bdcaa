"""`durus check`: verify a file and list its faults."""

import argparse
import sys
from contextlib import closing

from durus.cli.report import Report, add_json_argument
from durus.files.inspection import Finding
from durus.oid import oid_to_int
from durus.open_file import inspect_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the file to verify; it may be in use")
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    path: str = options.file
    if "" not in sys.path:
        sys.path.insert(0, "")  # as in the console: a class in this folder is not missing
    report = Report(options, ("clean", "faults", "findings"))
    faults = 0
    shown: list[dict[str, object]] = []
    with closing(inspect_file(path)) as inspection:
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
    report.end()
    return 1 if faults else 0


def _as_json(finding: Finding) -> dict[str, object]:
    return {
        "offset": finding.offset,
        "oid": None if finding.oid is None else oid_to_int(finding.oid),
        "problem": finding.problem,
        "fault": finding.is_fault,
    }
