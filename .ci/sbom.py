"""Prints the software bill of materials of wheels and source archives of one version, as CycloneDX JSON.

    python .ci/sbom.py dist/* > durus.cdx.json

It names every file with its SHA-256, and what the wheels require: nothing. A requirement would need a component of its
own here, so there it is an error.
"""

import hashlib
import sys
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def metadata_of(wheel: Path) -> Message:
    """Return the core metadata of a wheel."""
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def bill_of(files: list[Path]) -> Bom:
    """Return the bill of materials; raise ValueError if the files are not wheels and archives of one version."""
    described = [metadata_of(path) for path in files if path.suffix == ".whl"]
    releases = {(each["Name"], each["Version"], each["License-Expression"]) for each in described}
    if len(releases) != 1:
        raise ValueError(f"expected wheels of one version, found {sorted(releases)}")
    ((name, version, license_expression),) = releases
    required = {each for one in described for each in one.get_all("Requires-Dist", []) if "extra ==" not in each}
    if required:
        raise ValueError(f"{name} requires {sorted(required)}, which the bill of materials does not describe")
    package = Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref="package",
        purl=PackageURL("pypi", None, name, version),
        licenses=[LicenseFactory().make_from_string(license_expression)],
        components=[
            Component(name=path.name, type=ComponentType.FILE, bom_ref=path.name, hashes=[_hash_of(path)])
            for path in files
        ],
    )
    bill = Bom()
    bill.metadata.component = package
    bill.register_dependency(package)
    return bill


def _hash_of(path: Path) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(path.read_bytes()).hexdigest())


def main() -> None:
    bill = bill_of(sorted(map(Path, sys.argv[1:])))
    print(JsonV1Dot6(bill).output_as_string(indent=2))


if __name__ == "__main__":
    main()
