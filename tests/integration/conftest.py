"""What a test of processes leaves behind when it fails."""

import subprocess
from collections.abc import Generator, Iterator
from typing import Any

import pytest

_HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_HAS_FAILED] = report.failed
    return report


@pytest.fixture(autouse=True)
def no_process_is_left(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the processes of a failed test, which would be taken for faults of a later one; other tests leave none."""
    started: list[subprocess.Popen[Any]] = []
    begin = subprocess.Popen.__init__

    def note(process: "subprocess.Popen[Any]", *arguments: Any, **options: Any) -> None:
        begin(process, *arguments, **options)
        started.append(process)

    monkeypatch.setattr(subprocess.Popen, "__init__", note)
    yield
    left = [process for process in started if process.poll() is None]
    for process in left:
        process.kill()
        process.wait()
    for process in started:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    assert not left or request.node.stash.get(_HAS_FAILED, True), f"processes are left: {left}"
