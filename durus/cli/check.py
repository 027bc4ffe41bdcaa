"""`durus check`: verify a file and name its faults."""

import argparse

from durus.file import OperatingSystem
from durus.shelf.check import Check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F", help="the file to verify; it may be in use")


def run(options: argparse.Namespace) -> int:
    file = OperatingSystem().open(options.file, "read")
    try:
        check = Check(file)
        faults = 0
        for finding in check.findings():
            faults += finding.is_fault
            print(f"{options.file}: {finding}")
    finally:
        file.close()
    result = f"{faults} fault{'s' if faults > 1 else ''}" if faults else "clean"
    print(f"{options.file}: {result}: {check.transactions} transactions, {check.objects} objects, {_seals(check)}")
    return 1 if faults else 0


def _seals(check: Check) -> str:
    if not check.unsealed_size:
        return "sealed to its end"
    if check.unsealed_size < check.size:
        return f"the last {check.unsealed_size} bytes have no seal yet"
    return "no seals (as Durus 4.3 writes it)" if check.objects else "no seals"
