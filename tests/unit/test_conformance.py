"""durus-conformance finds what is wrong with a testee, whatever it does, and never fails itself."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.file_storage import FileStorage
from durus.sharing.address import HostPortAddress, SocketAddress
from durus.storage import MemoryStorage, Storage
from durus_conformance import large, records
from durus_conformance import testee as testees
from durus_conformance.__main__ import main
from durus_conformance.__main__ import run as run_cases
from durus_conformance.cases import VectorsError, World, read_vectors
from durus_conformance.dialogs import dialogs
from durus_conformance.judge import contents
from durus_conformance.questions import QUESTIONS, NotOffered, Question, Server
from durus_conformance.report import Report, Result
from durus_conformance.wire import Difference, connect
from tests.spec import ROOT, VECTORS, all_examples, all_statements
from tests.spec import recipe as recipe_of
from tests.threaded_server import serving

TESTEE = ROOT / "conformance" / "testees" / "durus_testee.py"
CASE = "record/no-data/read_record"
RIGHT = '{"error": "malformed"}'

PRELUDE = """
import json, os, sys, time
def say(message):
    print(json.dumps(message), flush=True)
def requests():
    for line in sys.stdin:
        yield json.loads(line)
"""
GREETING = 'say({"testee": "sample", "operations": ["read_record"]})\n'


def command(tmp_path: Path, body: str) -> str:
    """Return the command of a testee that is this program."""
    path = tmp_path / "testee.py"
    path.write_text(PRELUDE + body)
    return f"{sys.executable} {path}"


def changed(tmp_path: Path, body: str) -> str:
    """Return the command of the testee of this implementation, after `body` has changed something in it."""
    start = f"import sys\nsys.path[:0] = [{str(TESTEE.parent)!r}, {str(ROOT)!r}]\nimport durus_testee as testee\n"
    return command(tmp_path, f"{start}{body}\ntestee.main()\n")


def run(testee: str, tmp_path: Path, only: str, *options: str) -> dict[str, dict[str, object]]:
    """Return the cases that were tried, by id."""
    path = tmp_path / "report.json"
    main([testee, "--only", only, "--json", str(path), *options])
    report = json.loads(path.read_text())
    return {case["id"]: case for case in report["cases"] if case["outcome"] != "not tried"}


# Testees that do not keep to the messages


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("for request in requests(): time.sleep(600)", "did not answer"),
        ("sys.stdin.readline(); sys.exit('no more')", "it has ended (last error: no more)"),
        ("for request in requests(): print('hello', flush=True)", "not a JSON object"),
        ("for request in requests(): say([1])", "not a JSON object"),
        ("for request in requests(): print('[' * 100_000, flush=True)", "not a JSON object"),
        ("for request in requests(): say({'id': 0, 'result': {}})", "another request"),
        ("for request in requests(): say({'id': request['id']})", "has no result"),
        ("for request in requests(): say({'id': request['id'], 'result': 1})", "has no result"),
        ("for request in requests(): say({'id': request['id'], 'error': 'oh'})", "it says: oh"),
        ("sys.stdin.readline()\nwhile True: sys.stdout.write(2**20 * 'x')", "has more than"),
    ],
)
def test_a_testee_without_an_answer_has_broken_the_case(tmp_path: Path, body: str, problem: str) -> None:
    cases = run(command(tmp_path, GREETING + body), tmp_path, "record/no-data", "--deadline", "3")
    assert cases.keys() == {CASE}
    assert cases[CASE]["outcome"] == "broken"
    assert problem in str(cases[CASE]["problem"])


def test_the_case_after_a_failure_has_a_new_testee(tmp_path: Path) -> None:
    body = f"""
for request in requests():
    if request["hex"].endswith("8002"):
        os._exit(1)
    say({{"id": request["id"], "result": {RIGHT}}})
"""
    cases = run(command(tmp_path, GREETING + body), tmp_path, "/read_record")
    outcomes = {id: case["outcome"] for id, case in cases.items()}
    assert outcomes["record/refs-not-a-multiple-of-8/read_record"] == "held"
    assert outcomes["record/too-short-for-its-head/read_record"] == "held"
    assert "broken" in outcomes.values()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "print('hello', flush=True)",
        "say({'testee': 'a'})",
        "say({'testee': 'a', 'operations': ['sing']})",
        "say({'testee': 'a', 'operations': ['serve'], 'protocols': [3]})",
        "say({'testee': 'a', 'operations': ['read_file'], 'formats': ['SHELF-2']})",
    ],
)
def test_a_command_that_is_no_testee_is_told(tmp_path: Path, body: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command(tmp_path, body)]) == 2
    assert capsys.readouterr().err.startswith("durus-conformance: ")


def test_files_of_a_format_that_the_testee_does_not_have_are_not_tried(tmp_path: Path) -> None:
    greeting = "say({'testee': 'a', 'operations': ['read_file', 'write_file', 'pack'], 'formats': ['SHELF-1']})\n"
    body = f"{greeting}for each in requests():\n    say({{'id': each['id'], 'result': {{}}}})\n"
    tried = run(command(tmp_path, body), tmp_path, "file-storage-2/")
    assert not tried
    assert run(command(tmp_path, body), tmp_path, "shelf/sealed/read_file")


def test_the_report_lists_what_was_not_tried_of_documents_that_were_or_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = f"{GREETING}for each in requests():\n    say({{'id': each['id'], 'result': {RIGHT}}})\n"
    main([command(tmp_path, body), "--only", CASE])
    shown = capsys.readouterr().out
    assert "REC-32" in shown
    assert "WIRE-1," not in shown
    main([command(tmp_path, body), "--only", CASE, "--all"])
    assert "WIRE-1," in capsys.readouterr().out


def test_a_command_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere/testee"]) == 2
    assert "can't be started" in capsys.readouterr().err


# Servers


def test_a_server_that_holds_data_is_tested_by_its_address(tmp_path: Path) -> None:
    storage = MemoryStorage()
    connection = Connection(storage)
    connection.get_root()["kept"] = 1
    connection.commit()
    connection.close()
    with serving(storage, ("127.0.0.1", 0)) as address:
        report = tmp_path / "report.json"
        assert main(["--server", str(address), "--json", str(report)]) == 0
        held = {case["id"] for case in json.loads(report.read_text())["cases"] if case["outcome"] == "held"}
        assert {"wire/unknown-command/serve", "wire-2/the-beginning-of-version-2/serve"} <= held
        client = Connection(ClientStorage(address=address))
        assert client.get_root()["kept"] == 1
        client.close()


def test_a_server_that_answers_wrongly_breaks_its_cases(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_with_zeros, args=[listener], daemon=True).start()
        assert main(["--server", f"127.0.0.1:{listener.getsockname()[1]}", "--only", "wire/versions"]) == 1
    assert "BROKEN wire/versions/serve" in capsys.readouterr().out


def answer_with_zeros(listener: socket.socket) -> None:
    """Answer each connection with zeros, until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(bytes(64))


def test_a_server_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server", str(tmp_path / "none")]) == 2
    assert "can't be reached" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["testee", "--server", "127.0.0.1:1"]])
def test_either_a_testee_or_a_server_is_tested(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "not both" in capsys.readouterr().err


# Testees that are wrong

WRONG = {
    "record/no-data/read_record": "testee.OPERATIONS['read_record'] = lambda request: {'oid': '1', 'refs': []}",
    "record/empty-persistent-dict/read_state": "testee.plain = lambda value: {}",
    "record/references-out-of-order/write_record": """
from durus.records.record import pack_record, unpack_record
write_record = testee.OPERATIONS["write_record"]
def without_refs(request):
    oid, data, refs = unpack_record(bytes.fromhex(write_record(request)["hex"]))
    return {"hex": pack_record(oid, data, refs[8:]).hex()}
testee.OPERATIONS["write_record"] = without_refs
""",
    "pickle/pickle-of-dates/write_record": """
write_record = testee.OPERATIONS["write_record"]
def in_protocol_5(request):
    return {"hex": write_record(request)["hex"].replace("8004", "8005")}
testee.OPERATIONS["write_record"] = in_protocol_5
""",
    "shelf/packed-with-a-hole-and-without-seal/new_oids": """
testee.OPERATIONS["new_oids"] = lambda request: {"oids": ["4", "5", "6", "7"]}
""",
    "shelf/a-commit-after-an-unsealed-transaction/write_file-locked": """
from durus.files.file import OperatingSystem
import fcntl
fcntl.flock = lambda *arguments: None
""",
    "shelf/cut-inside-the-last-transaction/repair-locked": """
import fcntl
fcntl.flock = lambda *arguments: None
""",
    "shelf/beginning-of-a-file-that-is-read/repair": "testee.OPERATIONS['repair'] = lambda request: {}",
    "shelf/cut-inside-the-last-transaction/repair-again": """
repair = testee.OPERATIONS["repair"]
def forget(request):
    result = repair(request)
    with open(request["path"] + ".cut-40", "wb"):
        return result
testee.OPERATIONS["repair"] = forget
""",
    "wire-2/an-answer-in-parts/client-A": """
client = testee.OPERATIONS["client"]
testee.OPERATIONS["client"] = lambda request: {"records": []} if request["call"] == "load" else client(request)
""",
    "wire/a-connection-that-is-lost-during-a-commit/client-A": """
client = testee.OPERATIONS["client"]
def sure(request):
    result = client(request)
    return {"stored": False} if request["call"] == "commit" else result
testee.OPERATIONS["client"] = sure
""",
    "wire/a-load-answer-that-there-is-not/client-A": """
from durus.client_storage import ClientStorage
ClientStorage._lose = lambda *arguments: None
""",
    "shelf/sealed/read_file": "testee.unpack_record = lambda record: (b'', b'b', b'')",
    "shelf/hole-chain-that-goes-up/read_file": "testee.fault_of = lambda error: {'error': 'damage', 'offset': 0}",
    "shelf/sealed/check": "testee.OPERATIONS['check'] = lambda request: {'faults': [8]}",
    "shelf/cut-inside-the-last-transaction/check": "testee.OPERATIONS['check'] = lambda request: {'faults': []}",
    "shelf/cut-inside-the-last-transaction/repair": """
def cut(request):
    with open(request["path"], "r+b") as file:
        file.truncate(40)  # and the tail is lost
    return {}
testee.OPERATIONS["repair"] = cut
""",
    "shelf/offset-map-that-lies-about-its-size/repair": """
def cut(request):
    with open(request["path"], "r+b") as file:
        file.truncate(16)
    return {}
testee.OPERATIONS["repair"] = cut
""",
    "shelf/two-commits-to-a-new-file/write_file": """
write_file = testee.OPERATIONS["write_file"]
def one_byte_later(request):
    result = write_file(request)
    with open(request["path"], "r+b") as file:
        file.seek(48 + 94)
        file.write(b"3")  # in the time of the first seal
    return result
testee.OPERATIONS["write_file"] = one_byte_later
""",
    "shelf/commits-that-are-refused/write_file": """
write_file = testee.OPERATIONS["write_file"]
testee.OPERATIONS["write_file"] = lambda request: {**write_file(request), "outcomes": ["stored"] * 3}
""",
    "shelf/a-commit-after-an-unsealed-transaction/write_file": """
def append(request):
    with open(request["path"], "ab") as file:
        file.write(bytes(8))
    return {"outcomes": ["stored"]}
testee.OPERATIONS["write_file"] = append
""",
    "shelf/what-the-root-does-not-reach-goes/pack": "testee.OPERATIONS['pack'] = lambda request: {}",
    "transactions/read-conflict/steps-2": """
read = testee.Steps._read
testee.Steps._read = lambda *step: 1 if read(*step) == "read conflict" else read(*step)
""",
    "wire/new-oids/serve": """
import socket, threading
def serve(request):
    if "stop" in request:
        return {}
    listener = socket.create_server(("127.0.0.1", 0))
    def answer():
        connection, _ = listener.accept()
        connection.sendall(bytes([0, 0, 0, 0, 0, 0, 0, 1]))
    threading.Thread(target=answer, daemon=True).start()
    return {"address": {"host": "127.0.0.1", "port": listener.getsockname()[1]}}
testee.OPERATIONS["serve"] = serve
""",
    "wire-2/a-malformed-request/serve": "testee.OPERATIONS['serve'] = lambda request: {'address': 'here'}",
    "wire/invalid-oids/client-B": """
client = testee.OPERATIONS["client"]
def guess(request):
    result = client(request)
    return {"invalid": []} if request["call"] == "sync" else result
testee.OPERATIONS["client"] = guess
""",
    "wire-2/a-commit-in-one-message-and-a-conflict/client-B": """
client = testee.OPERATIONS["client"]
testee.OPERATIONS["client"] = lambda request: client({**request, "accessed": []} if "accessed" in request else request)
""",
    "pickle/pickle-with-a-list-in-two-places/write_record": """
from durus.serialize import ObjectReader
load_state = ObjectReader.load_state
def apart(self, obj, data):
    load_state(self, obj, data)
    obj.__dict__["b"] = ([1], [1])
ObjectReader.load_state = apart
""",
    "pickle/pickle-of-equal-values-that-are-not-the-same/write_record": """
from durus.serialize import ObjectReader
load_state = ObjectReader.load_state
def together(self, obj, data):
    load_state(self, obj, data)
    obj.__dict__["b"] = obj.__dict__["a"]
ObjectReader.load_state = together
""",
    "shelf/what-the-root-reaches-stays/pack-beside": """
import os
pack = testee.OPERATIONS["pack"]
def forget(request):
    result = pack(request)
    os.remove(request["path"] + ".prepack")
    return result
testee.OPERATIONS["pack"] = forget
""",
    "file-storage-2/what-the-root-of-a-dfs20-file-does-not-reach-goes/pack-beside": """
import os
pack = testee.OPERATIONS["pack"]
def publish(request):
    result = pack(request)
    os.chmod(request["path"], 0o644)
    return result
testee.OPERATIONS["pack"] = publish
""",
    "shelf/block-that-its-checksum-does-not-match/read_file": """
testee.fault_of = lambda error: {"error": "damage", "offset": 8}
""",
    "wire-2/a-version-that-there-is-not/client-A": """
client = testee.OPERATIONS["client"]
def nothing_is_wrong(request):
    try:
        return client(request)
    except Exception:
        return {}
testee.OPERATIONS["client"] = nothing_is_wrong
""",
    "wire-2/more-oids-than-a-load-can-have/client-A": """
from durus.sharing.client_dialog2 import ClientDialog2
ClientDialog2.load_all = lambda self, oids: self._load(oids, 0)
""",
    "wire-2/a-commit-at-the-limit-and-one-beyond-it/client-A": """
from durus.sharing import protocol2
encode_commit = protocol2.encode_commit
protocol2.encode_commit = lambda *arguments: encode_commit(*arguments[:4])
""",
    "wire/a-pack-removes/client-A": """
client = testee.OPERATIONS["client"]
testee.OPERATIONS["client"] = lambda request: {} if request["call"] == "pack" else client(request)
""",
}


@pytest.mark.parametrize("id", WRONG)
def test_a_wrong_testee_breaks_the_case_that_a_right_one_holds(tmp_path: Path, id: str) -> None:
    wrong = run(changed(tmp_path, WRONG[id]), tmp_path, id, "--deadline", "3")  # for those that never answer
    assert wrong[id]["outcome"] == "broken"
    assert run(f"{sys.executable} {TESTEE}", tmp_path, id)[id]["outcome"] == "held"


# Reports and lists of failures


def answering(tmp_path: Path, result: str) -> str:
    return command(tmp_path, f"{GREETING}for request in requests(): say({{'id': request['id'], 'result': {result}}})")


def test_a_known_failure_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = tmp_path / "known"
    known.write_text(f"# for now\n{CASE}  # because\n")
    options = ["--only", CASE, "--known-failures", str(known)]
    assert main([answering(tmp_path, "{}"), "--only", CASE]) == 1
    assert f"BROKEN {CASE} (MUST: REC-5)" in capsys.readouterr().out
    assert main([answering(tmp_path, "{}"), *options]) == 0
    assert "1 of the broken ones are known" in capsys.readouterr().out


def test_a_known_failure_that_holds_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = tmp_path / "known"
    known.write_text(f"{CASE}\n")
    assert main([answering(tmp_path, RIGHT), "--only", CASE, "--known-failures", str(known)]) == 1
    assert f"STALE {CASE}" in capsys.readouterr().out


def test_a_known_failure_that_does_not_exist_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = tmp_path / "known"
    known.write_text("record/gone/read_record\n")
    assert main([answering(tmp_path, RIGHT), "--only", CASE, "--known-failures", str(known)]) == 1
    assert "STALE record/gone/read_record" in capsys.readouterr().out


def test_a_list_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert main([answering(tmp_path, RIGHT), "--known-failures", str(tmp_path / "none")]) == 2


def test_vectors_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    assert main([answering(tmp_path, RIGHT), "--vectors", str(tmp_path)]) == 2
    with pytest.raises(VectorsError):
        read_vectors(tmp_path)


def test_the_report_has_each_statement_and_each_example() -> None:
    statements, cases = read_vectors(VECTORS)
    assert [each.id for each in statements] == [each.id for each in all_statements()]
    names = {case.name for case in cases} - {each.name for each in QUESTIONS}
    of_large_ones = {name for name in names if name.startswith("large-file-")}
    assert names - of_large_ones == {example.name for example in all_examples()} | {each.name for each in dialogs()}
    assert len(of_large_ones) == 4
    assert len({case.id for case in cases}) == len(cases)


def test_a_statement_is_broken_if_one_of_its_cases_is() -> None:
    statements, cases = read_vectors(VECTORS)
    split = [case for case in cases if case.operation == "read_record" and "REC-5" in case.statements]
    results = [Result(case, "held", None) for case in split]
    assert Report("it", statements, results, []).of_statements()["REC-5"] == "held"
    results[0] = Result(split[0], "broken", None)
    outcomes = Report("it", statements, results, []).of_statements()
    assert (outcomes["REC-5"], outcomes["SHELF-1"]) == ("broken", "not tried")


def test_what_should_be_is_a_warning(tmp_path: Path) -> None:
    statements, cases = read_vectors(VECTORS)
    (case,) = [each for each in cases if each.id == "wire-2/loads-and-what-comes-with-them/serve"]
    report = Report("it", statements, [Result(case, "broken", None)], [])
    assert report.is_good
    assert report.warnings


# The reader of the kit


def test_the_kit_reads_files_as_the_examples_say() -> None:
    for path in sorted(VECTORS.glob("*.json")):
        for vector in json.loads(path.read_text()):
            if vector.get("kind") in ("shelf", "dfs20"):
                found = contents(bytes.fromhex(vector["hex"]), new_from=2**20)
                if "error" in vector["expected"]:
                    assert "fault" in found, vector["name"]
                else:
                    expected = {key: value for key, value in vector["expected"].items() if key != "faults"}
                    assert found == expected, vector["name"]


def test_the_kit_reads_records_as_the_examples_say() -> None:
    """Those that a writer makes: not those of other protocols, or with keys that are equal."""
    read = 0
    not_made = {"pickle-with-other-keys"}
    for path in sorted(VECTORS.glob("*.json")):
        for vector in json.loads(path.read_text()):
            if vector.get("kind") == "record" and "error" not in vector["expected"] and vector["name"] not in not_made:
                found = records.contents(bytes.fromhex(vector["hex"]))
                read += "fault" not in found
                assert "fault" in found or found == vector["expected"], vector["name"]
    assert read >= 20


# Questions to a server


def address_in_json(address: SocketAddress) -> dict[str, object]:
    assert isinstance(address, HostPortAddress)
    return {"host": address.host, "port": address.port}


def ask(storage: Storage, name: str) -> object:
    """Return what comes of a question to a server of this implementation."""
    (question,) = [each for each in QUESTIONS if each.name == name]
    with serving(storage, ("127.0.0.1", 0)) as address, connect(address_in_json(address), 10) as connection:
        return question.ask(Server(connection))


@pytest.mark.spec("WIRE2-34", "WIRE2-35", "WIRE2-50", "WIRE2-51", "WIRE2-52")
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: each.name)
def test_a_server_answers_the_questions_of_the_kit(tmp_path: Path, question: Question) -> None:
    assert ask(FileStorage(tmp_path / "it.durus"), question.name) == question.expected


@pytest.mark.spec("WIRE2-50")
def test_a_server_without_a_file_need_not_send_its_bytes() -> None:
    with pytest.raises(NotOffered):
        ask(MemoryStorage(), "the-file-is-followed")


def test_what_is_not_offered_is_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    _, cases = read_vectors(VECTORS)
    (case,) = [each for each in cases if each.id == "wire-2/the-file-is-followed/serve"]

    def refuse(world: World) -> object:
        raise NotOffered

    testee = testees.Testee([], 1.0)
    testee.operations = frozenset(("serve",))
    (result,) = run_cases([replace(case, run=refuse)], testee, None, 1.0)
    testee.close()
    assert result.outcome == "not tried"


def test_a_file_that_does_not_end_in_the_announced_seal_is_told() -> None:
    (question,) = [each for each in QUESTIONS if each.name == "the-file-is-followed"]
    seal = b"000000000000000a 2026-01-02T03:04:05.000006Z 00000000"
    messages = [
        b"H" + bytes(37),
        b"N" + bytes(8),
        b"C\0" + bytes(12),
        b"W",
        b"\x80later",
        b"F\0" + seal,
        b"D" + bytes(142),
    ]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(bytes(3) + b"\2" + b"".join(len(each).to_bytes(4) + each for each in messages))
        with pytest.raises(Difference, match="does not end in the seal 000000000000000a"):
            question.ask(Server(ours))


# Large examples


@pytest.mark.spec("SHELF-10", "SHELF-15", "SHELF-17")
def test_a_large_file_is_the_one_of_its_recipe() -> None:
    (recipe,) = [recipe_of(each) for each in all_examples() if each.name == "large-file"]
    file = large.LargeFile(recipe["seed"], recipe["objects"], recipe["commits"], recipe["each"])
    assert zlib.crc32(file.data) == recipe["crc32"]
    assert contents(bytes(file.data)) == file.contents


@pytest.mark.spec("REC-30")
def test_a_large_record_expands_to_more_than_64_mib_but_not_by_a_factor_of_100() -> None:
    (recipe,) = [recipe_of(each) for each in all_examples() if each.kind == "large" and "64-mib" in each.name]
    (made,) = large.examples("it", recipe)
    stream = bytes.fromhex(made["hex"])[12:].partition(b"Persistent\n.")[2]
    assert 2**26 < len(zlib.decompress(stream)) < 100 * len(stream)


# The package


def test_the_kit_knows_its_version() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "durus_conformance", "--version"],
        cwd=ROOT / "conformance",
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("durus-conformance 1.")
