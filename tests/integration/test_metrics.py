"""The numbers of a server for Prometheus, and the dashboard that shows them."""

import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from durus.cli.main import main
from durus.error import AddressError
from durus.serving.counts import BOUNDS, Counts, Measures, Traffic
from durus.serving.metrics import serving_metrics
from durus.sharing.address import HostPortAddress
from tests.integration.serving import SECONDS, serving

DASHBOARD = Path(__file__).resolve().parent.parent.parent / "examples" / "grafana" / "durus.json"


def read(port: int) -> dict[str, float]:
    """Return the samples without labels, and those of histograms with their bounds."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
        text = answer.read().decode()
    return {
        sample.name + (f" {sample.labels['le']}" if "le" in sample.labels else ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def some_measures() -> Measures:
    """Every number that there can be."""
    counts = Counts(0)
    counts.note_commit(2, 300, 0.003)
    counts.write_seconds.note(1000)
    counts.note_pack(50, 47, 1000, 400, None)
    return Measures(counts, Traffic(1, 2, 3), 100, 400, 0, 5, 1, False, 7, 50)


@pytest.mark.spec("CMD-27")
def test_a_server_has_its_numbers_for_prometheus(tmp_path: Path) -> None:
    with serving("--file", "f", "--metrics", "0", folder=tmp_path) as server:
        port = int(server.log.expect(r"metrics on http://127\.0\.0\.1:(\d+)/metrics")[1])
        connection = server.connect()
        connection.get_root()["x"] = 1
        connection.commit()
        found = read(port)
        connection.close()
    assert found["durus_up"] == 1
    assert found["durus_commits_total"] == 2
    assert found["durus_committed_objects_total"] == 2
    assert found["durus_clients"] == 1
    assert found["durus_commit_seconds_count"] == 2
    assert found["durus_commit_seconds_bucket +Inf"] == 2
    assert found["durus_file_bytes"] > 50
    assert found["durus_file_bytes"] > found["durus_garbage_bytes"] > 0
    assert found["durus_sent_bytes_total"] > 50
    with pytest.raises(urllib.error.URLError):
        read(port)


@pytest.mark.spec("CMD-27")
def test_a_histogram_is_told_bucket_by_bucket() -> None:
    with serving_metrics(HostPortAddress(port=0), some_measures) as port:
        found = read(port)
    assert found[f"durus_commit_seconds_bucket {BOUNDS[4]}"] == 0
    assert found[f"durus_commit_seconds_bucket {BOUNDS[5]}"] == 1
    assert found["durus_commit_seconds_sum"] == 0.003
    assert found[f"durus_write_seconds_bucket {BOUNDS[-1]}"] == 0
    assert found["durus_write_seconds_bucket +Inf"] == 1
    assert found["durus_last_pack_freed_bytes"] == 600
    assert found["durus_last_pack_age_seconds"] == 50
    assert found["durus_last_pack_duration_seconds"] == 3


@pytest.mark.spec("CMD-27")
def test_a_server_that_does_not_answer_is_not_up() -> None:
    with serving_metrics(HostPortAddress(port=0), lambda: None) as port:
        assert read(port) == {"durus_up": 0}


@pytest.mark.spec("CMD-27")
def test_other_requests_change_nothing() -> None:
    with serving_metrics(HostPortAddress(port=0), some_measures) as port:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", b"x", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="405") as refused:
            urllib.request.urlopen(request, timeout=SECONDS)
        refused.value.close()


@pytest.mark.spec("CMD-27")
def test_slow_requests_leave_threads_and_memory_alone() -> None:
    with serving_metrics(HostPortAddress(port=0), some_measures) as port:
        slow = [socket.create_connection(("127.0.0.1", port), SECONDS) for _ in range(8)]
        for each in slow:
            each.sendall(b"GET /")
        with socket.create_connection(("127.0.0.1", port), SECONDS) as one_more:
            assert one_more.recv(1) == b"", "it is closed without an answer"
        for each in slow:
            each.close()
        while not _is_answered(port):
            pass


def _is_answered(port: int) -> bool:
    try:
        return read(port)["durus_up"] == 1
    except OSError:
        return False


@pytest.mark.spec("CMD-27")
def test_a_port_in_use_is_an_error_and_other_machines_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with serving_metrics(HostPortAddress("0.0.0.0", 0), some_measures) as port:
        assert "can be read from other machines" in caplog.text
        with (
            pytest.raises(AddressError, match=f"cannot listen on 0.0.0.0:{port}"),
            serving_metrics(HostPortAddress("0.0.0.0", port), some_measures),
        ):
            pass


@pytest.mark.spec("CMD-27", "CMD-6")
@pytest.mark.parametrize("value", ["here", "localhost", "::1:9", "[::1]", "1:2:3", "99999", ""])
def test_a_wrong_address_is_a_usage_error(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "f"), "--metrics", value]) == 2
    assert "argument --metrics: " in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


@pytest.mark.spec("CMD-27")
def test_without_the_package_it_is_an_error_that_names_the_extra(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from durus.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "serve", "f", "--metrics", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "durus: --metrics needs prometheus_client, which is not installed: pip install 'durus[metrics]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_dashboard_shows_numbers_that_there_are() -> None:
    with serving_metrics(HostPortAddress(port=0), some_measures) as port:
        there = {name.partition(" ")[0] for name in read(port)}
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    shown = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"durus_\w+", target["expr"])
    }
    assert len(shown) > 15
    assert shown <= there
    assert len({panel["id"] for panel in panels}) == len(panels)
