"""`durus check`: verify a file and name its faults."""

import argparse
from collections.abc import Iterable

from durus.cli.output import tell
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.dfs20.check import Dfs20Inspection
from durus.files.file import OperatingSystem
from durus.files.inspection import Finding
from durus.files.shelf.check import ShelfInspection
from durus.open_file import storage_class_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F", help="the file to verify; it may be in use")


def run(options: argparse.Namespace) -> int:
    storage_class = storage_class_of(options.file)
    if issubclass(storage_class, FileStorage | FileStorage2):
        return _check_file(options.file, storage_class)
    storage = storage_class(options.file, readonly=True)
    try:
        faults = _print_findings(options.file, storage.gen_findings())
        _print_result(options.file, faults, f"{storage.count()} objects, no checksums (SQLite)")
    finally:
        storage.close()
    return 1 if faults else 0


def _check_file(path: str, storage_class: type[FileStorage | FileStorage2]) -> int:
    file = OperatingSystem().open(path, "read")
    try:
        check = ShelfInspection(file) if storage_class is FileStorage else Dfs20Inspection(file)
        faults = _print_findings(path, check.findings())
    finally:
        file.close()
    seals = (
        _seals(check)
        if isinstance(check, ShelfInspection)
        else "no checksums, so no changed byte inside an object shows"
    )
    _print_result(path, faults, f"{check.transactions} transactions, {check.objects} objects, {seals}")
    return 1 if faults else 0


def _print_findings(path: str, findings: Iterable[Finding]) -> int:
    """Print the findings; return how many of them are faults."""
    faults = 0
    for finding in findings:
        faults += finding.is_fault
        tell(f"{path}: {finding}")
    return faults


def _print_result(path: str, faults: int, figures: str) -> None:
    result = f"{faults} fault{'s' if faults > 1 else ''}" if faults else "clean"
    tell(f"{path}: {result}: {figures}")


def _seals(check: ShelfInspection) -> str:
    if not check.unsealed_size:
        return "sealed to its end"
    if check.unsealed_size < check.size:
        return f"the last {check.unsealed_size} bytes have no seal yet"
    return "no seals (as Durus 4.3 writes it)" if check.objects else "no seals"
