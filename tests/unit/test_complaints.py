"""What a server complains of, outside of any client."""

import logging

import pytest

from durus.serving.complaints import Complaints


@pytest.mark.spec("WIRE-41")
def test_a_complaint_that_names_another_object_is_of_the_same_kind(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    with caplog.at_level(logging.ERROR, "durus"):
        complaints.note("Exception in callback <Handle at 0x7f01>", OSError("one"))
        complaints.note("Exception in callback <Handle at 0x7f02>", OSError("two"))
        complaints.note("no connection can be accepted", OSError("three"))
    assert [record.message.partition(": ")[2] for record in caplog.records] == ["one", "three"]
