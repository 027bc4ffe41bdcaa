"""A PostgreSQL of the tests' own: in a temporary folder, by a Unix socket only, and gone with the tests."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from durus.opening import open_other_storage
from durus.postgres_storage import PostgresStorage
from durus.storage import InvalidationHandler
from tests.portable_sql import forbid_others
from tests.short_paths import short_folder

try:
    import psycopg
except ImportError:  # the extra `postgres` has it
    psycopg = None  # type: ignore[assignment]  # the fixture skips every test then
else:
    forbid_others()

_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=on")
"""For tests of everything but the survival of a machine's crash."""


class PostgresServer:
    """A server with its data in a folder, run by another user than root, whom PostgreSQL refuses."""

    def __init__(self, programs: Path, folder: Path, user: str | None, *settings: str) -> None:
        self._programs = programs
        self._user = user
        self._settings = settings
        self.folder = folder
        self._data = folder / "data"
        self.process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Make the data of a new server, and start it."""
        self._run("initdb", "-D", str(self._data), "-U", "durus", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.start()

    def follow(self, primary: "PostgresServer") -> None:
        """Make the data from those of another server, and start as its standby."""
        shutil.rmtree(self._data, ignore_errors=True)
        source = f"host={primary.folder} user=durus"
        self._run("pg_basebackup", "-d", source, "-D", str(self._data), "-R", "-c", "fast", "--no-sync")
        self.start()

    def _user_arguments(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            **self._user_arguments(),
        )
        assert not done.returncode, f"{program}: {done.stdout}{done.stderr}"

    def start(self, *settings: str) -> None:
        """Start, and return when clients can connect."""
        options = [f"-c{each}" for each in (*_FAST, "max_connections=60", "autovacuum=off", *self._settings, *settings)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, "-k", self.folder, "-h", "", *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._user_arguments(),
            )
        for _ in range(600):
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.conninfo).close()
                return
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
                break
        raise AssertionError((self.folder / "log").read_text())

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop at once, and undo what was not committed; with SIGKILL, as a crash does."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait()

    def crash(self) -> None:
        """Kill every process, as the loss of a machine does."""
        process, self.process = self.process, None
        assert process is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        process.wait()

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} user=durus dbname=postgres"

    def address(self, schema: str = "durus") -> str:
        """The address of a database in a schema."""
        return f"postgresql:///postgres?host={self.folder}&user=durus&schema={schema}"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as an administrator; return its rows."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def limit_files(self, pid: int, size: str) -> None:
        """Let a session write no further than this in any file, as on a disk that is full; "unlimited" ends that."""
        subprocess.run(["prlimit", f"--pid={pid}", f"--fsize={size}:unlimited"], check=True, **self._user_arguments())

    def kill_backends(self, like: str = "%") -> int:
        """End the connections whose last statement is like this one; return how many."""
        return len(
            self.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                f"where backend_type = 'client backend' and pid <> pg_backend_pid() and query ilike '{like}'"
            )
        )


def programs_of_postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs: that of POSTGRES_PROGRAMS, or of the newest version installed.

    None if there are none.
    """
    if chosen := os.environ.get("POSTGRES_PROGRAMS"):
        return Path(chosen)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    on_path = shutil.which("initdb")
    candidates = [*found, *([Path(on_path).resolve()] if on_path else [])]
    return candidates[-1].parent if candidates else None


class Pair:
    """A primary and its standby, each of which can take the place of the other.

    If the standby is synchronous, no commit is acknowledged without it, also while there is none.
    """

    def __init__(self, folder: Path, is_synchronous: bool) -> None:
        settings = ("synchronous_standby_names=*",) if is_synchronous else ()
        folders = folder / "1", folder / "2"
        for each in folders:
            each.mkdir()
        folder.chmod(0o711)
        self.primary, self.standby = (postgres_in(each, *settings) for each in folders)
        self._address = f"postgresql:///postgres?host={folders[0]},{folders[1]}&user=durus"
        self.primary.make()
        self.standby.follow(self.primary)

    def address(self, schema: str = "durus") -> str:
        """The address of a database that names both."""
        return f"{self._address}&schema={schema}"

    def promote(self) -> None:
        """Have the standby take over from a primary that is gone."""
        assert self.standby.execute("select pg_promote(true, 60)") == [(True,)]
        self.primary, self.standby = self.standby, self.primary

    def stop(self) -> None:
        """Stop both at once."""
        self.standby.stop(signal.SIGKILL)
        self.primary.stop(signal.SIGKILL)


def new_postgres(folder: Path) -> PostgresServer:
    """Start a server with its data in an empty folder; skip the test, and tell why, if there can be none."""
    server = postgres_in(folder)
    server.make()
    return server


def postgres_in(folder: Path, *settings: str) -> PostgresServer:
    """Return a server that has its data in an empty folder, and does not run yet."""
    programs = programs_of_postgres()
    if psycopg is None:
        pytest.skip("psycopg is not installed: pip install 'durus[postgres]'")
    if programs is None:
        pytest.skip("PostgreSQL's initdb is not installed: apt-get install postgresql")
    user = None
    if os.geteuid() == 0:
        user = _other_user()
        shutil.chown(folder, user)
    folder.chmod(0o700)
    return PostgresServer(programs, folder, user, *settings)


def _other_user() -> str:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")


def storage_at(address: str) -> PostgresStorage:
    """Open one more storage of an address."""
    storage = open_other_storage(address)
    assert isinstance(storage, PostgresStorage)
    return storage


def open_handed(storage: PostgresStorage) -> PostgresStorage:
    """Have a storage take records of oids that it has not given out, as a storage for one connection does."""

    class OpenHanded(PostgresStorage):
        def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
            new = [oid for oid in self._pending or () if oid not in self._oids.given and not self.has_record(oid)]
            self._oids.given.add(new)
            try:
                super().end(handle_invalidations)
            finally:
                self._oids.given.discard(new)

    storage.__class__ = OpenHanded
    return storage


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of a process."""
    with short_folder(for_other_users=os.geteuid() == 0) as folder:
        server = new_postgres(folder)
        yield server
        server.stop()


@pytest.fixture
def postgres_address(postgres: PostgresServer) -> str:
    """The address of an empty database."""
    return postgres.address(f"test_{uuid4().hex}")
