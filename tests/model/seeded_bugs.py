"""Known-bad changes of the program, each with the test that must catch it.

python -m tests.model.seeded_bugs          applies each bug to a copy of the program, and shows the result of its test
python -m tests.model.seeded_bugs NAME     applies one of them
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent


class Change(NamedTuple):
    """A piece of source that is replaced; it must occur in the file exactly once."""

    path: str
    old: str
    new: str


class Bug(NamedTuple):
    """The changes that break something, and the test (as pytest names it) that must fail with them, and only then."""

    changes: tuple[Change, ...]
    caught_by: str


STORAGE = "durus/files/append_only_storage.py"
SESSION = "durus/sharing/session.py"
CHANGE_LOG = "durus/sharing/change_log.py"
VERSIONS = "durus/sharing/versions.py"
CRASH = "tests/model/test_crashes.py::test_crash_at_any_operation_leaves_a_state_between_acknowledged_and_attempted"
SESSIONS_OVER_FILE = "tests/model/test_session_machine.py::TestOverFile"
SESSIONS_OVER_MEMORY = "tests/model/test_session_machine.py::TestOverMemory"

BACK_UP = "durus/backups/back_up.py"
FOLDER_TARGET = "durus/backups/folder.py"
OBJECT_TARGET = "durus/backups/objects.py"
CRASH_OF_BACKUP = (
    "tests/model/test_backup_crashes.py::test_crash_at_any_operation_leaves_the_backup_complete_or_as_it_was"
)

REPLICA = "durus/backups/replica.py"
CRASH_OF_REPLICA = (
    "tests/model/test_replica_crashes.py::"
    "test_after_a_crash_at_any_operation_the_replica_is_sound_and_the_next_round_goes_on"
)
BACKUPS_IN_OBJECTS = "tests/model/test_backup_in_objects.py"
LIST_UNUSED = (
    "        unused = [name for name in self._store.names() if SEGMENT_NAME.fullmatch(name) and name not in used]\n"
)

BUGS: dict[str, Bug] = {
    "a commit is acknowledged before the fsync": Bug(
        (
            Change(
                STORAGE,
                'prepared.pieces, end, durable=self._durability == "fsync")',
                "prepared.pieces, end, durable=False)",
            ),
        ),
        f"{CRASH}[create]",
    ),
    "the directory is not synced after the replace of a pack": Bug(
        (
            Change(
                "durus/files/file_replacer.py",
                "        self._file_system.sync_directory(self._path)\n",
                "",
            ),
        ),
        f"{CRASH}[pack]",
    ),
    "the directory of a new file is not synced": Bug(
        (
            Change(
                STORAGE,
                "            self._file_system.sync_directory(self._path)\n        return _Opened(",
                "        return _Opened(",
            ),
        ),
        f"{CRASH}[create]",
    ),
    "the length of a transaction is written first and patched afterwards": Bug(
        (
            Change(
                STORAGE,
                "            file.append(piece, end)\n",
                "            file.append(bytes(8) + piece[8:], end)\n"
                "            file.truncate(end)\n"
                "            file.append(piece, end)\n",
            ),
        ),
        "tests/unit/test_shelf.py::test_order_of_operations_of_open_and_commit",
    ),
    "a seal does not cover the length of its transaction": Bug(
        (
            Change(
                "durus/files/shelf/layout.py",
                "    return pack_seal(offset + len(head) + len(body), time, checksum, head, body)\n",
                "    seal, sealed = pack_seal(offset + len(head) + len(body), time, checksum, body)\n"
                "    return head + seal, sealed\n",
            ),
            Change(
                "durus/files/shelf/scan.py",
                "    reader.advance(U64.size)\n    places, seal",
                "    before = reader.checksum\n    reader.advance(U64.size)\n    reader.checksum = before\n"
                "    places, seal",
            ),
        ),
        "tests/unit/test_shelf.py::test_bytes_of_a_first_commit",
    ),
    "of a read of several blocks only the first one is checked": Bug(
        (
            Change(
                "durus/files/shelf/block_checked.py",
                "for number in range(first, after):",
                "for number in range(first, first + 1):",
            ),
        ),
        "tests/unit/test_block_table.py::test_each_read_returns_what_is_there_or_tells_of_the_first_unsound_block",
    ),
    "a pack misses the commits that were made after its last step": Bug(
        (
            Change(
                "durus/files/packer.py",
                "        for _ in self._follow():\n            pass\n        self._target.sync()",
                "        self._target.sync()",
            ),
        ),
        f"{CRASH}[pack with commits]",
    ),
    "an oid is handed out twice": Bug(
        (
            Change(
                "durus/files/oid_allocator.py",
                "self._next_number = number + 1\n            if",
                "self._next_number += not number or offset_of(oid) is not None\n            if",
            ),
        ),
        SESSIONS_OVER_FILE,
    ),
    "what an append that failed has written is cut off, but not durably": Bug(
        (
            Change(
                STORAGE,
                "opened.file.truncate(opened.record_file.end)\n            opened.file.sync()",
                "opened.file.truncate(opened.record_file.end)",
            ),
        ),
        "tests/unit/test_crash_regressions.py::test_commit_that_was_interrupted_does_not_come_back_in_a_crash",
    ),
    "a write without a read is not an access": Bug(
        (
            Change(
                "durus/persistent.py",
                '            _use(self, connection)\n        if get_slot(self, "_p_status") == SAVED:',
                '            if get_slot(self, "_p_status") == GHOST:\n'
                "                connection.load_state(self)\n"
                '        if get_slot(self, "_p_status") == SAVED:',
            ),
        ),
        "tests/model/test_clients_machine.py::TestClientsOfMemory",
    ),
    "the invalidation of a third client is lost": Bug(
        (
            Change(
                SESSION,
                "            log.add(commit.records)\n            self._trim_log()\n",
                "            log.add(commit.records)\n            self._trim_log()\n"
                "            for third in list(self._sessions)[2:]:\n                third._reader.serial = log.end\n",
            ),
        ),
        SESSIONS_OVER_MEMORY,
    ),
    "conflicts are looked for before the turn": Bug(
        (
            Change(
                SESSION,
                "        def grant() -> None:\n            self._core._in_turn.add(self)\n"
                "            granted(self._reader.take_invalid())\n",
                "        known = self._reader.take_invalid()\n\n"
                "        def grant() -> None:\n            self._core._in_turn.add(self)\n            granted(known)\n",
            ),
        ),
        SESSIONS_OVER_MEMORY,
    ),
    "a commit whose turn was passed on is taken though another one was before it": Bug(
        (Change(SESSION, "for other in self._in_turn - {session}:", "for other in set[Session]():"),),
        SESSIONS_OVER_MEMORY,
    ),
    "a commit whose turn was passed on does not wait until another client's turn is over": Bug(
        (Change(SESSION, "turn is turns.holder or self._has_lost_turn", "turn.is_granted or self._has_lost_turn"),),
        SESSIONS_OVER_MEMORY,
    ),
    "a client that has lost track is told of what is known": Bug(
        (Change(CHANGE_LOG, "return None if serial < log.start else log.changes_after(", "return log.changes_after("),),
        SESSIONS_OVER_MEMORY,
    ),
    "what all clients have heard of is forgotten, and a bit more": Bug(
        (Change(CHANGE_LOG, "self._runs[0].last <= serial:", "self._runs[0].last <= serial + 3:"),),
        SESSIONS_OVER_MEMORY,
    ),
    "a core that starts anew continues with the turn that was": Bug(
        (Change(SESSION, "        self._turn = self._whole = None\n", "        self._whole = None\n"),),
        SESSIONS_OVER_MEMORY,
    ),
    "a snapshot does not keep what a commit replaces": Bug(
        (Change(VERSIONS, "        self._eras[-1].keep(records, serial, self._record_before)\n", ""),),
        "tests/unit/test_versions.py::test_a_snapshot_keeps_what_commits_replace[memory]",
    ),
    "a snapshot that ends takes along what older ones show": Bug(
        (Change(VERSIONS, "            older |= oids\n", ""),),
        "tests/unit/test_versions.py::test_a_snapshot_that_ends_leaves_to_older_ones_what_they_show_too[memory]",
    ),
    "a snapshot is not told again of what was on its way when it began": Bug(
        (
            Change(
                SESSION,
                "self._reader.serial = core._commits.durable_serial(core._log.end)",
                "core._commits.durable_serial(core._log.end)",
            ),
        ),
        "tests/unit/test_versions.py::test_a_client_hears_later_of_what_was_not_durable_when_it_took_its_snapshot",
    ),
    "an exclusive transaction does not take its turn": Bug(
        (
            Change(
                "durus/connection.py",
                "self.storage.take_turn() if is_exclusive else self.storage.sync()",
                "self.storage.sync()",
            ),
        ),
        "tests/unit/test_database.py::test_an_exclusive_transaction_has_no_conflict[memory]",
    ),
    "a connection does not sleep between transactions": Bug(
        (
            Change(
                "durus/pool/connections.py",
                "            self.transaction_serial = -self.transaction_serial\n\n    def end(",
                "            pass\n\n    def end(",
            ),
        ),
        "tests/unit/test_database.py::test_what_is_used_after_its_transaction_is_refused[memory-transaction]",
    ),
    "a backup has what a crash can take from the file": Bug(
        (Change(BACK_UP, "        file.sync()  #", "        #"),),
        f"{CRASH_OF_BACKUP}[without fsync]",
    ),
    "a manifest names a segment whose name is not durable": Bug(
        (
            Change(
                FOLDER_TARGET,
                "        self._file_system.sync_directory(path)\n        return name\n",
                "        return name\n",
            ),
        ),
        f"{CRASH_OF_BACKUP}[first]",
    ),
    "a manifest is not synced before it replaces the old one": Bug(
        (
            Change(
                "durus/files/publishing.py",
                "        file.append(data)\n        file.sync()\n    finally",
                "        file.append(data)\n    finally",
            ),
        ),
        f"{CRASH_OF_BACKUP}[packs]",
    ),
    "segments are removed before the manifest is written": Bug(
        (
            Change(
                FOLDER_TARGET,
                "        self._write_manifest(manifest)\n        self._remove_unused(manifest)\n",
                "        self._remove_unused(manifest)\n        self._write_manifest(manifest)\n",
            ),
        ),
        f"{CRASH_OF_BACKUP}[keep]",
    ),
    "two segments in an object store have the same name": Bug(
        (Change(OBJECT_TARGET, "os.urandom(8)", "bytes(8)"),),
        f"{BACKUPS_IN_OBJECTS}::test_backups_at_the_same_time_never_lose_what_a_manifest_names",
    ),
    "segments in an object store are listed after the manifest was replaced": Bug(
        (
            Change(
                OBJECT_TARGET,
                f"{LIST_UNUSED}        self._version = self._write_manifest(manifest, self._version)\n",
                f"        self._version = self._write_manifest(manifest, self._version)\n{LIST_UNUSED}",
            ),
        ),
        f"{BACKUPS_IN_OBJECTS}::test_backups_at_the_same_time_never_lose_what_a_manifest_names",
    ),
    "the manifest in an object store is replaced whatever it is": Bug(
        (
            Change(
                "durus/backups/obstore_store.py",
                'mode="create" if version is None else _mode(version)',
                'mode="overwrite"',
            ),
        ),
        f"{BACKUPS_IN_OBJECTS}::test_backups_at_the_same_time_never_lose_what_a_manifest_names",
    ),
    "a backup keeps a commit that was cut off while it was read": Bug(
        (Change(BACK_UP, "        if not has_seal(file, plan.segments[-1].seal):", "        if False:"),),
        "tests/model/test_backup_crashes.py::test_what_was_cut_off_while_it_was_copied_is_not_backed_up",
    ),
    "a replica has what a crash can take from its source": Bug(
        (Change("durus/backups/sources.py", "        self._file.sync()  #", "        #"),),
        f"{CRASH_OF_REPLICA}[without fsync-file]",
    ),
    "a replica is appended to before its note tells of it": Bug(
        (Change(REPLICA, "        self._write_note(seal, state.last)\n", ""),),
        f"{CRASH_OF_REPLICA}[adding-file]",
    ),
    "a replica that is rewritten gets its name before it is durable": Bug(
        (Change(REPLICA, "                new.sync()\n", ""),),
        f"{CRASH_OF_REPLICA}[packs-file]",
    ),
    "a replica with commits of its own is written over": Bug(
        (Change(REPLICA, "            if not note.explains(seal):", "            if False:"),),
        "tests/unit/test_replica.py::test_a_replica_that_was_opened_for_writing_is_left_alone[True]",
    ),
    "a snapshot of a server that follows its file shows what came later": Bug(
        (
            Change(
                VERSIONS,
                "            era.keep(staged.oids, self._serial + 1, lambda oid: before[oid] if oid in before",
                "            era.keep([], self._serial + 1, lambda oid: before[oid] if oid in before",
            ),
        ),
        "tests/unit/test_readonly_server.py::test_a_snapshot_shows_its_state_while_the_file_grows_and_is_packed[shelf]",
    ),
    "a moment that was given up is not found any more": Bug(
        (Change(BACK_UP, "True, each.first_seal, branched_at, common)", "True, each.first_seal, 0, common)"),),
        "tests/model/test_backup_machine.py::test_history_that_goes_back_is_a_branch_that_shares_segments",
    ),
    "a file at a commit shows the next one, too": Bug(
        (
            Change(
                "durus/files/shelf/history.py",
                "                    waiting[-1].end = each.start",
                "                    waiting[-1].end = each.end",
            ),
        ),
        "tests/unit/test_looking_back.py::test_each_commit_can_be_shown[0]",
    ),
    "an entry in a damaged block counts as sound": Bug(
        (
            Change(
                "durus/files/shelf/salvage.py",
                'yield entry if is_sure else entry._replace(quality="doubtful")',
                "yield entry",
            ),
        ),
        "tests/unit/test_salvage.py::test_damaged_bytes_lose_only_the_objects_of_their_block_or_commit"
        "[large packed-512-noise]",
    ),
}


def copy_program(folder: Path) -> None:
    """Copy the files that the tests of the models need to an empty folder."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in "durus", "tests", "spec":
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)


def apply(bug: Bug, folder: Path) -> None:
    """Change the program in the folder; ValueError if the source to be replaced does not occur in it."""
    for change in bug.changes:
        path = folder / change.path
        source = path.read_text(encoding="utf-8")
        if source.count(change.old) != 1:
            raise ValueError(f"{change.path}: this occurs {source.count(change.old)} times: {change.old!r}")
        path.write_text(source.replace(change.old, change.new), encoding="utf-8")


def run_test(test: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one test on the program in the folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "PYTEST_"))}
    environment = {**kept, "PYTHONPATH": str(folder), "HYPOTHESIS_PROFILE": "first"}
    environment["DURUS_PURE_PYTHON"] = "1"  # because a bug in the Python is not in the C extension
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", test],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def output_with(name: str) -> tuple[int, str]:
    """Return pytest's exit code and output for the test that must catch a bug, on a program with the bug."""
    bug = BUGS[name]
    with tempfile.TemporaryDirectory(prefix="durus-bug-") as folder:
        copy_program(Path(folder))
        apply(bug, Path(folder))
        result = run_test(bug.caught_by, Path(folder))
    return result.returncode, result.stdout + result.stderr


def main(names: list[str]) -> int:
    missed = 0
    for name in names or BUGS:
        code, output = output_with(name)
        last = [line for line in output.splitlines() if line.startswith("E ")][-1:] or output.splitlines()[-1:]
        print(
            f"{'caught' if code == 1 else 'MISSED'}: {name}\n    by {BUGS[name].caught_by}\n    {''.join(last)[:300]}"
        )
        missed += code != 1
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
