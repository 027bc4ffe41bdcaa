"""The codec of the wire protocol: what one side writes the other reads, and nothing else."""

import struct
from collections.abc import Sequence
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.error import ProtocolError, TransactionError
from durus.sharing import protocol
from durus.sharing.protocol import (
    INVALID,
    MAX_COMMIT,
    MAX_REQUEST_OIDS,
    NOT_FOUND,
    OKAY,
    BulkLoad,
    Commit,
    Goodbye,
    Load,
    Loaded,
    NewOids,
    Pack,
    Quit,
    Reader,
    Request,
    Sync,
    Version,
)

T = TypeVar("T")

oids = st.binary(min_size=8, max_size=8)
u32 = st.integers(0, 2**32 - 1)
requests = st.one_of(
    st.builds(Version, u32),
    st.builds(NewOids, st.integers(0, 255)),
    st.builds(Load, oids),
    st.builds(BulkLoad, st.lists(oids)),
    st.sampled_from([Sync(), Commit(), Pack(), Quit(), Goodbye()]),
)


class Bytes:
    """What a reader is driven on; notes how much it asked for at once."""

    def __init__(self, data: bytes) -> None:
        self.rest = data
        self.most_wanted = 0

    def __call__(self, size: int) -> bytes:
        assert size >= 0
        self.most_wanted = max(self.most_wanted, size)
        if size > len(self.rest):
            raise EOFError
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


def read_commit() -> Reader[dict[bytes, bytes]]:
    records: list[tuple[bytes, bytes]] = []
    count = yield from protocol.read_commit(lambda oid, record: records.append((oid, record)))
    assert count == len(records)
    return dict(records)


def read(reader: Reader[T], data: bytes) -> T:
    """Return what the reader makes of all of the data."""
    source = Bytes(data)
    found = protocol.receive(reader, source)
    assert source.rest == b""
    return found


@given(requests)
@pytest.mark.spec("WIRE-3", "WIRE-4", "WIRE-5", "WIRE-6", "WIRE-7", "WIRE-8", "WIRE-9", "WIRE-12", "WIRE-13", "WIRE-14")
def test_a_request_is_read_as_it_was_written(request: Request) -> None:
    assert read(protocol.read_request(), protocol.encode_request(request)) == request


@given(st.lists(st.tuples(st.sampled_from([OKAY]), st.binary()) | st.tuples(st.sampled_from([INVALID, NOT_FOUND]))))
@pytest.mark.spec("WIRE-6", "WIRE-7")
def test_load_answers_are_read_as_they_were_written(parts: Sequence[tuple[bytes, ...]]) -> None:
    answers = [Loaded(*part) for part in parts]
    data = b"".join(map(protocol.encode_loaded, answers))
    assert read(protocol.read_all_loaded(len(answers)), data) == answers


@given(st.lists(oids))
@pytest.mark.spec("WIRE-5", "WIRE-8")
def test_lists_of_oids_are_read_as_they_were_written(found: list[bytes]) -> None:
    assert read(protocol.read_oids(), protocol.encode_oids(found)) == found
    assert read(protocol.read_new_oids(len(found)), b"".join(found)) == found


@given(st.dictionaries(oids, st.binary()))
@pytest.mark.spec("WIRE-10")
def test_a_commit_is_read_as_it_was_written(records: dict[bytes, bytes]) -> None:
    assert read(read_commit(), protocol.encode_commit(records.items())) == records


@given(st.binary())
@pytest.mark.spec("WIRE-20", "WIRE-23")
def test_any_bytes_are_a_request_or_the_start_of_one_or_an_error(data: bytes) -> None:
    source = Bytes(data)
    try:
        request = protocol.receive(protocol.read_request(), source)
    except (ProtocolError, EOFError):
        assert source.most_wanted <= 8 * MAX_REQUEST_OIDS
    else:
        assert protocol.encode_request(request).replace(b"M\x01", b"N") == data[: len(data) - len(source.rest)].replace(
            b"M\x01", b"N"
        )


@given(st.binary(max_size=100))
@pytest.mark.spec("WIRE-10", "WIRE-23")
def test_any_data_of_a_commit_is_records_or_an_error(data: bytes) -> None:
    message = struct.pack(">I", len(data)) + data
    try:
        records = read(read_commit(), message)
    except ProtocolError:
        return
    assert protocol.encode_commit(records.items()) == message


@pytest.mark.parametrize(
    ("reader", "claim"),
    [
        (protocol.read_request(), b"B" + struct.pack(">I", MAX_REQUEST_OIDS + 1)),
        (read_commit(), struct.pack(">I", MAX_COMMIT + 1)),
        (read_commit(), b"\xff\xff\xff\xff"),
    ],
    ids=["oids", "commit", "4 GiB"],
)
@pytest.mark.spec("WIRE-20")
def test_a_claim_beyond_the_limit_is_refused_before_its_bytes_are_read(reader: Reader[object], claim: bytes) -> None:
    with pytest.raises(ProtocolError, match="limit"):
        read(reader, claim)


@pytest.mark.spec("WIRE-25")
def test_answers_that_the_protocol_does_not_have_are_refused() -> None:
    with pytest.raises(ProtocolError, match="b'X' is not an answer to a load"):
        read(protocol.read_loaded(), b"X")
    with pytest.raises(ProtocolError, match="b'K' is not an answer to a commit"):
        read(protocol.read_status(), b"K")


@pytest.mark.spec("WIRE-10", "WIRE-20")
def test_a_commit_beyond_the_limit_is_not_even_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_COMMIT", 40)
    assert len(protocol.encode_commit([(bytes(8), bytes(28))])) == 44
    with pytest.raises(TransactionError, match="exceeds the 40"):
        protocol.encode_commit([(bytes(8), bytes(29))])


@pytest.mark.spec("WIRE-1", "WIRE-2", "WIRE-4", "WIRE-20")
def test_numbers_of_the_protocol() -> None:
    assert (protocol.VERSION, protocol.DEFAULT_HOST, protocol.DEFAULT_PORT) == (1, "127.0.0.1", 2972)
    assert (MAX_REQUEST_OIDS, MAX_COMMIT) == (2**18, 2**30)


@pytest.mark.spec("WIRE-20")
def test_a_claim_of_just_the_limit_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [bytes(8)] * MAX_REQUEST_OIDS
    assert read(protocol.read_request(), protocol.encode_request(BulkLoad(asked))) == BulkLoad(asked)
    monkeypatch.setattr(protocol, "MAX_COMMIT", 40)  # with the 4 of a length and the 8 of an oid
    assert read(read_commit(), protocol.encode_commit([(bytes(8), bytes(28))])) == {bytes(8): bytes(28)}


@pytest.mark.spec("WIRE-6")
def test_answer_without_a_record_is_its_status_only() -> None:
    assert read(protocol.read_loaded(), b"I") == (b"I", b"")
    assert read(protocol.read_loaded(), b"K") == (b"K", b"")
    assert read(protocol.read_loaded(), b"O" + bytes(4)) == (b"O", b"")
    assert [read(protocol.read_status(), status) for status in (b"O", b"I")] == [b"O", b"I"]


@pytest.mark.spec("WIRE-10")
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (bytes(11), "inside the head of an entry, at byte 0"),
        (struct.pack(">I", 7) + bytes(11), "an entry of 7 bytes at byte 0 does not fit"),
        (struct.pack(">I", 9) + bytes(8), "an entry of 9 bytes at byte 0 does not fit the 12 bytes"),
        (struct.pack(">I", 8) + bytes(8) + struct.pack(">I", 8) + bytes(7), "inside the head of an entry, at byte 12"),
    ],
)
def test_data_of_a_commit_that_is_no_row_of_entries_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        read(read_commit(), struct.pack(">I", len(data)) + data)


@pytest.mark.spec("WIRE-3")
def test_command_that_the_protocol_does_not_have_is_refused() -> None:
    with pytest.raises(ProtocolError, match="b'X' is not a command"):
        read(protocol.read_request(), b"X")


@pytest.mark.spec("WIRE-5")
def test_one_new_oid_has_a_command_of_its_own() -> None:
    assert [protocol.encode_request(NewOids(number)) for number in (0, 1, 2)] == [b"M\0", b"N", b"M\2"]
