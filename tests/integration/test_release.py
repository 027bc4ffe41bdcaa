"""The source archive and the wheels hold what they must, and run where there is nothing but Python."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

pytest.importorskip("build.__main__", reason="tox -e release builds what is tested here")  # a folder may be named build

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]
NOT_IN_THE_ARCHIVE = {".gitignore"}
IMPLEMENTATION = "import durus, durus.persistent; durus.open; print(durus.__version__, durus.persistent.implementation)"


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Return what a command prints on both of its outputs; fail if it fails."""
    variables = {key: value for key, value in os.environ.items() if key not in ("DURUS_PURE_PYTHON", "PYTHONPATH")}
    result = subprocess.run(
        command,
        cwd=folder,
        env=variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def build(folder: Path, source: Path, option: str, **environment: str) -> Path:
    """Return the files that `python -m build` makes from a source tree, and its output."""
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, option, source)
    said = run(*command, folder=folder.parent, **environment)
    (built,) = folder.iterdir()
    (folder.parent / f"{folder.name}.log").write_text(said)
    return built


def build_wheel(folder: Path, source: Path, **environment: str) -> Path:
    """Build a wheel from a copy of the source, where no other build has left anything."""
    copy = shutil.copytree(source, folder.with_name(f"{folder.name}-source"))
    return build(folder, copy, "--wheel", **environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("release")


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    """The source archive of this tree."""
    return build(folder / "sdist", ROOT, "--sdist")


@pytest.fixture(scope="module")
def source(folder: Path, archive: Path) -> Path:
    """What the source archive unpacks to."""
    with tarfile.open(archive) as unpacked:
        unpacked.extractall(folder / "source", filter="data")
    (found,) = (folder / "source").iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(folder: Path, source: Path) -> Path:
    return build_wheel(folder / "wheel", source)


@pytest.fixture(scope="module")
def wheel_without_compiler(folder: Path, source: Path) -> Path:
    return build_wheel(folder / "without", source, CC="/bin/false")


@pytest.fixture(scope="module")
def pure_wheel(folder: Path, source: Path) -> Path:
    return build_wheel(folder / "pure", source, DURUS_PURE_PYTHON="1")


def names_in(wheel: Path) -> set[str]:
    with ZipFile(wheel) as opened:
        return {name for name in opened.namelist() if ".dist-info/" not in name}


def modules() -> set[str]:
    """Return the modules and the other files of the package."""
    package = ROOT / "durus"
    files = [*package.rglob("*.py"), package / "py.typed", *(package / "browser" / "templates").iterdir()]
    return {str(path.relative_to(ROOT)) for path in files}


def venv_with(wheel: Path, folder: Path, python: str | Path = sys.executable) -> Path:
    """Return the Python of a new venv that holds nothing but a wheel."""
    run(python, "-m", "venv", folder, folder=folder.parent)
    found = folder / "bin" / "python"
    run(found, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, folder=folder.parent)
    return found


def test_the_archive_holds_all_that_the_repository_does(source: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a repository")
    tracked = run("git", "ls-files", folder=ROOT).splitlines()
    assert [name for name in tracked if not (source / name).exists()] == sorted(NOT_IN_THE_ARCHIVE)
    for name in ("tests/unit", "spec/shelf.md", "docs/tutorial.md", "examples/tracker", "durus/_persistent.c"):
        assert (source / name).exists()


def test_a_wheel_holds_the_package_and_the_extension_only(wheel: Path) -> None:
    (extension,) = names_in(wheel) - modules()
    assert extension.startswith("durus/_persistent.")
    assert extension.endswith(".so")
    assert modules() <= names_in(wheel)


def test_a_wheel_runs_in_c(wheel: Path, tmp_path: Path) -> None:
    assert run(venv_with(wheel, tmp_path / "venv"), "-c", IMPLEMENTATION, folder=tmp_path).endswith(" C\n")


def test_a_pure_wheel_is_for_every_system(pure_wheel: Path) -> None:
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    assert names_in(pure_wheel) == modules()


@pytest.mark.parametrize("version", PYTHONS)
def test_a_pure_wheel_runs_on_each_python_without_anything_else(version: str, pure_wheel: Path, tmp_path: Path) -> None:
    python = shutil.which(f"python{version}")
    if not python or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"Python {version} is not here")
    found = venv_with(pure_wheel, tmp_path / "venv", python)
    assert run(found, "-W", "error", "-c", IMPLEMENTATION, folder=tmp_path).endswith(" Python\n")
    assert "(base classes in Python)" in run(tmp_path / "venv" / "bin" / "durus", "--version", folder=tmp_path)


def test_the_suite_runs_pythons_that_have_a_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert [version for version in PYTHONS if f":: {version}" in text] == PYTHONS


def test_without_a_compiler_durus_is_python_and_says_so(
    wheel_without_compiler: Path, folder: Path, tmp_path: Path
) -> None:
    assert "durus is installed without its C extension" in (folder / "without.log").read_text()
    assert names_in(wheel_without_compiler) == modules()
    found = venv_with(wheel_without_compiler, tmp_path / "venv")
    assert run(found, "-c", IMPLEMENTATION, folder=tmp_path).endswith(" Python\n")
    assert "(base classes in Python)" in run(tmp_path / "venv" / "bin" / "durus", "--version", folder=tmp_path)


def test_a_build_that_has_the_extension_says_nothing_of_it(wheel: Path, folder: Path) -> None:
    assert wheel.exists()
    assert "without its C extension" not in (folder / "wheel.log").read_text()


# The bill of materials


def bill_of(*files: Path, folder: Path) -> str:
    pytest.importorskip("cyclonedx", reason="tox -e release makes the bill of materials")
    return run(sys.executable, "-W", "error", ROOT / ".ci" / "sbom.py", *files, folder=folder)


def test_the_bill_of_materials_is_valid_and_names_each_file(archive: Path, pure_wheel: Path, tmp_path: Path) -> None:
    bill = bill_of(archive, pure_wheel, folder=tmp_path)
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    assert archive.name in bill
    assert pure_wheel.name in bill
    assert '"pkg:pypi/durus@' in bill


def test_a_requirement_that_the_bill_does_not_describe_is_an_error(pure_wheel: Path, tmp_path: Path) -> None:
    changed = tmp_path / pure_wheel.name
    with ZipFile(pure_wheel) as old, ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(
                name, old.read(name).replace(b"\nRequires-Python:", b"\nRequires-Dist: other\nRequires-Python:")
            )
    with pytest.raises(AssertionError, match="other"):
        bill_of(changed, folder=tmp_path)
