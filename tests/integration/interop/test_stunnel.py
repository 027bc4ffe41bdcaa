"""Clients of 4.3 reach a server on another machine through stunnel at both ends."""

import sys
from pathlib import Path

import pytest

from tests.certificates import make_certificates
from tests.integration.interop.serving import served_by
from tests.integration.interop.side import Sides
from tests.integration.stunnel import client_end, needs_stunnel, server_end


@needs_stunnel
@pytest.mark.spec("WIRE-1", "TLS-1")
def test_a_client_of_4_3_commits_through_stunnel(sides: Sides, short_path: Path) -> None:
    certificates = make_certificates(short_path)
    with (
        served_by(Path(sys.executable), short_path / "file") as served,
        server_end(certificates, Path(served.address)) as server,
        client_end(certificates, "writer", server, str(short_path / "entry"), short_path / "client-end") as entry,
    ):
        sides.old.ask("connect", "through stunnel", entry, {})
        assert sides.old.ask("step", "through stunnel", "make_cells", 3) == ["done", None]
        for _ in range(5):
            sides.old.ask("step", "through stunnel", "add", 1)
            assert sides.old.ask("step", "through stunnel", "commit") == ["done", None]
        assert sides.new.ask("look", served.address)[:3] == sides.old.ask("look", entry)[:3] == [0, 5, 0]
