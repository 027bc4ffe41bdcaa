"""The commands, and durus.open(), on a database in PostgreSQL."""

import io
import json
import re
import shlex
import threading
from pathlib import Path
from typing import Any

import pytest

import durus
from durus.cli.main import main
from durus.connection import Connection
from durus.error import ArgumentError, NotAllowedError, ReadonlyError
from durus.file_storage import FileStorage
from durus.persistent_list import PersistentList
from tests.postgres import PostgresServer, storage_at
from tests.unit.databases import SECONDS, in_threads

pytest.importorskip("psycopg")


def fill(address: str, count: int = 3) -> None:
    """Make a root with a list of lists, and an object that is not reached any more."""
    with Connection(storage_at(address)) as connection:
        root: Any = connection.get_root()
        root["a"] = PersistentList(PersistentList([number]) for number in range(count))
        root["gone"] = PersistentList()
        connection.commit()
        del root["gone"]
        connection.commit()


def lists(root: Any) -> list[list[int]]:
    return [list(each) for each in root["a"]]


# durus.open()


@pytest.mark.spec("DB-1", "DB-7", "DB-10", "DB-20")
def test_threads_share_a_database_in_an_engine(postgres_address: str) -> None:
    def add(root: Any) -> None:
        root["n"] = root.get("n", 0) + 1

    with durus.open(postgres_address) as db, durus.open(postgres_address, timeout=10, prefetch=5) as other:
        in_threads(4, lambda number: [(db, other)[number % 2].run(add) for _ in range(25)])
        with db.transaction() as root:
            assert root["n"] == 100


@pytest.mark.spec("DB-4", "DB-15", "DB-16", "TXN-65")
def test_readonly_and_snapshots_show_one_state(postgres_address: str) -> None:
    with durus.open(postgres_address) as db:
        with db.transaction() as root:
            root["a"] = 1
        with durus.open(postgres_address, readonly=True) as reader:
            with reader.transaction() as seen, db.snapshot() as shown:
                with pytest.raises(ReadonlyError):
                    seen["a"] = 3
                thread = threading.Thread(target=db.run, args=(lambda root: root.update(a=2),))
                thread.start()
                thread.join(SECONDS)
                assert (seen["a"], shown["a"]) == (1, 1)
            with reader.transaction() as seen:
                assert seen["a"] == 2
            with pytest.raises(ReadonlyError):
                reader.pack()


@pytest.mark.spec("DB-12", "DB-21")
def test_the_last_try_is_exclusive(postgres_address: str) -> None:
    with durus.open(postgres_address, tries=2) as db, durus.open(postgres_address) as other:
        calls = 0

        def add(root: Any) -> None:
            nonlocal calls
            calls += 1
            n = root.get("n", 0)
            if calls == 1:
                thread = threading.Thread(target=other.run, args=(lambda root: root.update(n=10),))
                thread.start()
                thread.join(SECONDS)
            root["n"] = n + 1

        db.run(add)
        assert calls == 2
        with other.transaction() as root:
            assert root["n"] == 11
        assert db.stats().exclusive == 1


@pytest.mark.spec("DB-2")
def test_an_unknown_option_is_refused(postgres_address: str) -> None:
    with pytest.raises(ArgumentError, match="has no option 'repair'"):
        durus.open(postgres_address, repair=True)
    with pytest.raises(ArgumentError, match=r"unknown scheme; known ones are .*postgresql"):
        durus.open("mysql://x/y")


@pytest.mark.spec("DB-42")
def test_a_database_packs(postgres_address: str) -> None:
    fill(postgres_address)
    with durus.open(postgres_address) as db:
        db.pack()
        db.pack(wait=False)
    with Connection(storage_at(postgres_address)) as connection:
        assert len(list(connection.storage.gen_oid_record())) == 5


# Commands


@pytest.mark.spec("CMD-41", "PG-6")
def test_init_makes_the_tables_once_and_tells_their_version(
    postgres: PostgresServer, postgres_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = postgres_address.rpartition("schema=")[2]
    assert main(["init", "--check", postgres_address]) == 1
    (remedy,) = re.findall("has no tables of Durus: make them with `durus (.*)`", capsys.readouterr().err)
    assert postgres.execute(f"select count(*) from pg_namespace where nspname = '{schema}'") == [(0,)]
    assert main(shlex.split(remedy)) == 0
    made = capsys.readouterr().out
    assert made.startswith(f"{postgres_address}: made schema {schema}, table object, table change, ")
    assert made.endswith("table head, index mark_step; the tables have version 1\n")
    for arguments in ["init", postgres_address], ["init", "--check", postgres_address]:
        assert main(arguments) == 0
        assert capsys.readouterr().out == f"{postgres_address}: the tables are there, of version 1\n"
    postgres.execute(f"drop table {schema}.mark")
    postgres.execute(f"drop table {schema}.head")
    assert main(["init", postgres_address]) == 0
    assert ": made table mark, table head, index mark_step; the" in capsys.readouterr().out
    postgres.execute(f"update {schema}.head set version = 2")
    assert main(["init", "--check", postgres_address]) == 1
    assert "has tables of version 2, and this program knows version 1" in capsys.readouterr().err


@pytest.mark.spec("PG-6")
def test_a_role_without_rights_is_told_which_it_needs(
    postgres: PostgresServer, postgres_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = postgres_address.rpartition("=")[2]
    role = f"role_{schema}"
    postgres.execute(f"create role {role} login")
    address = postgres_address.replace("user=durus", f"user={role}")

    def refused(what: str) -> None:
        assert main(["init", address]) == 1
        told = capsys.readouterr().err
        assert f"{what}; a client needs USAGE on the schema" in told
        assert "SELECT, INSERT, UPDATE and DELETE on its tables" in told
        assert "CREATE on the database, or USAGE and CREATE on a schema that is there" in told

    try:
        refused("permission denied for database postgres")
        postgres.execute(f"create schema {schema}")
        refused(f"permission denied for schema {schema}")
        postgres.execute(f"grant usage, create on schema {schema} to {role}")
        assert main(["init", address]) == 0
        assert ": made table object," in capsys.readouterr().out
        postgres.execute(f"drop schema {schema} cascade")
        fill(postgres_address)
        refused(f"permission denied for schema {schema}")
        postgres.execute(f"grant usage on schema {schema} to {role}")
        postgres.execute(f"grant select on all tables in schema {schema} to {role}")
        with durus.open(address, readonly=True) as db, db.transaction() as root:
            assert lists(root) == [[0], [1], [2]]
        with durus.open(address) as db, pytest.raises(NotAllowedError, match="SELECT, INSERT, UPDATE and DELETE"):
            db.run(lambda root: root.update(a=1))
        postgres.execute(f"grant insert, update, delete, truncate on all tables in schema {schema} to {role}")
        with durus.open(address) as db:
            db.run(lambda root: root.update(a=1))
            db.pack()
    finally:
        postgres.execute(f"drop owned by {role}")
        postgres.execute(f"drop role {role}")


@pytest.mark.spec("CMD-41")
def test_init_is_for_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "shop.durus"]) == 2
    assert "shop.durus is not an address of an engine" in capsys.readouterr().err
    assert main(["init"]) == 2


@pytest.mark.spec("CMD-5", "CMD-11")
def test_check_and_info_look_at_an_address(postgres_address: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(postgres_address)
    assert main(["check", postgres_address]) == 0
    assert "clean: 6 objects, no checksums of Durus (PostgreSQL)" in capsys.readouterr().out
    assert main(["info", postgres_address, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["objects"], found["unreached_objects"]) == ("PostgreSQL", 6, 1)
    assert found["file"] == postgres_address
    assert main(["info", postgres_address]) == 0
    assert "format        PostgreSQL" in capsys.readouterr().out


@pytest.mark.spec("CMD-5")
def test_check_finds_what_is_wrong(postgres: Any, postgres_address: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(postgres_address)
    schema = postgres_address.rpartition("=")[2]
    postgres.execute(f"delete from {schema}.object where oid = (select max(oid) from {schema}.object) - 1")
    postgres.execute(f"update {schema}.object set data = 'x' where oid = (select max(oid) from {schema}.object)")
    assert main(["check", postgres_address]) == 1
    assert "which has no record" in capsys.readouterr().out
    postgres.execute(f"delete from {schema}.object where oid = 0")
    assert main(["check", postgres_address]) == 1
    assert "there is no root object" in capsys.readouterr().out


@pytest.mark.spec("CMD-5", "PG-50")
def test_a_file_becomes_a_database_in_an_engine_and_a_file_again(
    postgres_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.durus", tmp_path / "new.durus"
    with Connection(FileStorage(old)) as connection:
        connection.get_root()["a"] = PersistentList(PersistentList([number]) for number in range(3000))
        connection.commit()
    assert main(["convert", str(old), postgres_address]) == 0
    with durus.open(postgres_address) as db, db.transaction() as root:
        assert lists(root) == [[number] for number in range(3000)]
        root["a"].append(PersistentList([3000]))
    assert main(["convert", postgres_address, str(new)]) == 0
    with Connection(FileStorage(new, readonly=True)) as connection:
        assert lists(connection.get_root()) == [[number] for number in range(3001)]
    assert main(["convert", str(old), postgres_address]) == 1
    assert "has objects already" in capsys.readouterr().err


@pytest.mark.spec("CMD-5")
def test_pack_serve_and_wrong_options(postgres_address: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(postgres_address)
    assert main(["pack", "--storage", postgres_address]) == 0
    assert ": packed" in capsys.readouterr().out
    with Connection(storage_at(postgres_address)) as connection:
        assert len(list(connection.storage.gen_oid_record())) == 5
    assert main(["serve", "--storage", postgres_address, "--repair"]) == 2
    assert main(["convert", postgres_address, postgres_address, "--storage-class", "durus.sqlite_storage.X"]) != 0


@pytest.mark.spec("CMD-5")
def test_a_shell_on_an_address(
    postgres_address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(postgres_address)
    monkeypatch.setattr("sys.stdin", io.StringIO("print(len(root['a']))\nroot['b'] = 1\nconnection.commit()\n"))
    assert main(["-c", postgres_address]) == 0
    printed = capsys.readouterr()
    assert "3" in printed.out
    assert postgres_address in printed.out + printed.err
    with Connection(storage_at(postgres_address)) as connection:
        assert connection.get_root()["b"] == 1


@pytest.mark.spec("CMD-5", "EXP-22")
def test_an_engine_is_exported_and_its_objects_are_shown(
    postgres_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(postgres_address)
    lines, tables, new = tmp_path / "f.jsonl", tmp_path / "f.sqlite", tmp_path / "f.durus"
    assert main(["export", postgres_address, "--to", str(lines)]) == 0
    assert main(["export", postgres_address, "--to", str(tables)]) == 0
    assert main(["import", str(lines), str(new)]) == 0
    with Connection(FileStorage(new)) as connection:
        assert lists(connection.get_root()) == [[0], [1], [2]]
    capsys.readouterr()
    assert main(["show", postgres_address, "0"]) == 0
    assert "  refers to oid 1 (durus.persistent_list.PersistentList): .data['a']\n" in capsys.readouterr().out
    assert main(["refs", postgres_address, "1"]) == 0
    assert "oid 0 (durus.persistent_dict.PersistentDict): .data['a']\n" in capsys.readouterr().out
    assert main(["export", postgres_address, "--to", str(tmp_path / "g.jsonl"), "--at", "2026-01-01"]) == 2
    assert "--at is for a file" in capsys.readouterr().err
