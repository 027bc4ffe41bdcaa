"""The list of deliberate faults of the port fits the port, and a fault in it is found."""

import shutil
import subprocess

import pytest

from durus_conformance.cases import read_vectors
from tests.model.port_faults import ROOT, Fault, find, in_order, read_faults, stale_faults


def test_each_fault_can_be_made() -> None:
    faults = read_faults()
    assert stale_faults(faults) == []
    assert len({each.what for each in faults}) == len(faults) > 200


def test_a_fault_whose_text_is_gone_is_stale() -> None:
    assert stale_faults([Fault("none", "bytes.js", "this is nowhere", "")]) == ["none"]


@pytest.mark.skipif(
    not shutil.which("node") or bool(subprocess.run(["node", "-e", "zlib.crc32(String())"], check=False).returncode),
    reason="there is no Node 20.15 or later",
)
def test_the_kit_finds_a_fault_of_the_port_and_none_in_the_port() -> None:
    _, cases = read_vectors(ROOT / "spec" / "vectors")
    few = [case for case in in_order(cases, "record.js") if case.document == "record"]
    (fault,) = [each for each in read_faults() if each.what == "a record without data is accepted"]
    assert find(fault, few) == "record/no-data/read_state"
    assert find(None, few) == ""
