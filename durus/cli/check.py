"""`durus check`: verify a file and name its faults."""

import argparse
from collections.abc import Iterable

from durus.cli.report import Report, add_json_argument
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.dfs20.check import Dfs20Check
from durus.files.file import OperatingSystem
from durus.files.inspection import Finding
from durus.files.shelf.check import Check
from durus.oid import oid_to_int
from durus.open_file import storage_class_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the file to verify; it may be in use")
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    report = Report(options, ("clean", "faults", "findings"))
    faults = _check(options.file, report)
    report.end()
    return 1 if faults else 0


def _check(path: str, report: Report) -> int:
    """Report what is found; return the number of faults."""
    storage_class = storage_class_of(path)
    if issubclass(storage_class, FileStorage | FileStorage2):
        return _check_file(path, storage_class, report)
    storage = storage_class(path, readonly=True)
    try:
        faults = _report_findings(path, storage.gen_findings(), report)
        count = storage.count()
    finally:
        storage.close()
    _report_result(path, faults, f"{count} objects, no checksums (SQLite)", report)
    report.note(None, format="SQLite", objects=count)
    return faults


def _check_file(path: str, storage_class: type[FileStorage | FileStorage2], report: Report) -> int:
    file = OperatingSystem().open(path, "read")
    try:
        check = Check(file) if storage_class is FileStorage else Dfs20Check(file)
        faults = _report_findings(path, check.findings(), report)
    finally:
        file.close()
    seals = _seals(check) if isinstance(check, Check) else "no checksums, so no changed byte inside an object shows"
    _report_result(path, faults, f"{check.transactions} transactions, {check.objects} objects, {seals}", report)
    report.note(
        None,
        format="SHELF-1" if isinstance(check, Check) else "DFS20",
        sealed=_sealed(check) if isinstance(check, Check) else None,
        transactions=check.transactions,
        objects=check.objects,
    )
    return faults


def _report_findings(path: str, findings: Iterable[Finding], report: Report) -> int:
    """Report the findings; return how many of them are faults."""
    faults = 0
    found: list[dict[str, object]] = []
    report.note(None, findings=found)
    for finding in findings:
        faults += finding.is_fault
        report.note(f"{path}: {finding}")
        if report.is_json:
            found.append(
                {
                    "offset": finding.offset,
                    "oid": None if finding.oid is None else oid_to_int(finding.oid),
                    "problem": finding.problem,
                    "fault": finding.is_fault,
                }
            )
    return faults


def _report_result(path: str, faults: int, figures: str, report: Report) -> None:
    result = f"{faults} fault{'s' if faults > 1 else ''}" if faults else "clean"
    report.note(f"{path}: {result}: {figures}", clean=not faults, faults=faults)


def _sealed(check: Check) -> str:
    if not check.unsealed_size:
        return "all"
    return "part" if check.unsealed_size < check.size else "none"


def _seals(check: Check) -> str:
    if not check.unsealed_size:
        return "sealed to its end"
    if check.unsealed_size < check.size:
        return f"the last {check.unsealed_size} bytes have no seal yet"
    return "no seals (as Durus 4.3 writes it)" if check.objects else "no seals"
