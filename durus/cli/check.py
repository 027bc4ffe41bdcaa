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
        for fault in check.faults():
            faults += 1
            print(f"{options.file}: {fault}")
        size = file.size()
    finally:
        file.close()
    if check.unsealed_size >= size:
        seals = "no seals (written by Durus 4.3)"
    elif check.unsealed_size:
        seals = f"the last {check.unsealed_size} bytes have no seal yet"
    else:
        seals = "sealed to its end"
    result = f"{faults} fault{'s' if faults > 1 else ''}" if faults else "clean"
    print(f"{options.file}: {result}: {check.transactions} transactions, {check.objects} objects, {seals}")
    return 1 if faults else 0
