"""The files around the code agree: which Pythons there are, what a version is, and what the workflows run."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import durus

ROOT = Path(__file__).resolve().parent.parent.parent
NEWER_PYTHONS = ROOT / ".ci" / "newer_pythons"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SECTIONS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
"""Of Keep a Changelog, in its order."""
VERSION = r"[0-9]+\.[0-9]+\.[0-9]+((a|b|rc)[0-9]+)?"


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    return tomllib.loads(text_of("pyproject.toml"))


def pythons() -> list[str]:
    """The versions of Python that the classifiers name."""
    found = [
        re.fullmatch(r"Programming Language :: Python :: (3\.[0-9]+)", each)
        for each in project()["project"]["classifiers"]
    ]
    return [each[1] for each in found if each]


# Pythons


def test_the_oldest_python_is_the_one_that_is_required() -> None:
    assert project()["project"]["requires-python"] == f">= {pythons()[0]}"
    assert project()["tool"]["mypy"]["python_version"] == pythons()[0]
    assert project()["tool"]["ruff"]["target-version"] == "py" + pythons()[0].replace(".", "")


def test_tox_runs_the_suite_on_each_python() -> None:
    (environments,) = re.findall(r"^env_list = (.*)$", text_of("tox.ini"), re.MULTILINE)
    run = [f"3.{minor}" for minor in re.findall(r"\bpy3([0-9]+)\b", environments)]
    assert run == pythons()[1:], "the oldest has its run in the command of README.md"


def test_all_tests_of_the_c_alone_are_run_with_its_checks() -> None:
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*_in_c.py")}
    assert tests - set(text_of("tests/c_extension.txt").split()) == set()


def test_the_check_runs_each_environment_once() -> None:
    (environments,) = re.findall(r"^env_list = (.*)$", text_of("tox.ini"), re.MULTILINE)
    labels = re.findall(r"^    (?:narrow|wide) = (.*)$", text_of("tox.ini"), re.MULTILINE)
    assert len(labels) == 2
    assert sorted(", ".join(labels).split(", ")) == sorted(environments.split(", "))


def test_the_workflow_runs_the_suite_on_each_python() -> None:
    (matrix,) = re.findall(r"^ +python: \[(.*)\]$", text_of(".github/workflows/tests.yml"), re.MULTILINE)
    assert re.findall(r'"([0-9.]+)"', matrix) == pythons()


def test_wheels_are_built_for_each_python() -> None:
    expected = [f"cp{version.replace('.', '')}-*" for version in pythons()]
    assert project()["tool"]["cibuildwheel"]["build"].split() == expected


@pytest.mark.parametrize("page", ["docs/faq.md", "docs/reference/public.md"])
def test_a_page_names_each_python(page: str) -> None:
    assert f"CPython {', '.join(pythons()[:-1])} and {pythons()[-1]}" in " ".join(text_of(page).split())


def test_the_newer_pythons_are_the_newest() -> None:
    (versions,) = re.findall(r"^versions=\((.*)\)$", text_of(".ci/newer_pythons"), re.MULTILINE)
    assert versions.split() == pythons()[-2:]


def test_newer_pythons_that_cannot_be_had_are_told_on_one_line(tmp_path: Path) -> None:
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\nexit 1\n")
    unshare.chmod(0o755)
    folder = tmp_path / "folder"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    build = subprocess.run([NEWER_PYTHONS, "build", folder], env=environment, capture_output=True, check=False)
    assert build.returncode != 0
    result = subprocess.run(
        [NEWER_PYTHONS, "test", folder], env=environment, capture_output=True, text=True, check=False
    )
    (line,) = result.stdout.splitlines()
    assert re.fullmatch(
        "LEFT OUT: the suite did not run on Python 3.14 3.15: (this machine allows no namespaces|only root can do it)",
        line,
    )
    assert (result.stderr, result.returncode) == ("", 0)


# Versions


def test_the_version_follows_the_rule() -> None:
    assert re.fullmatch(rf"{VERSION}(\.dev[0-9]+)?", durus.__version__)


def test_the_changelog_keeps_its_form() -> None:
    headings = re.findall(r"^## (.*)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert len(set(headings)) == len(headings)
    for heading in headings:
        assert re.fullmatch(rf"\[Unreleased\]|\[{VERSION}\] - 20[0-9]{{2}}-[01][0-9]-[0-3][0-9]", heading)
    assert "[Unreleased]" not in headings[1:]
    newest = re.sub(r"\] - .*", "", headings[0]).strip("[]")
    assert newest == ("Unreleased" if ".dev" in durus.__version__ else durus.__version__)


def test_the_changelog_names_kinds_of_changes_in_order() -> None:
    for release in re.split(r"^## ", text_of("CHANGELOG.md"), flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.*)$", release, re.MULTILINE)
        assert kinds == [each for each in SECTIONS if each in kinds]


def test_what_warns_that_it_is_deprecated_is_in_the_changelog_and_names_its_replacement() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "durus").rglob("*.py"))
    warned = set(re.findall(r'"(\w+\(\)) is deprecated; (?:use|call|add) ', sources))
    assert len(re.findall(r"\bDeprecationWarning, stacklevel", sources)) >= len(warned) > 0
    deprecated = "".join(
        re.findall(r"^### Deprecated\n(.*?)(?=^##)", text_of("CHANGELOG.md"), re.MULTILINE | re.DOTALL)
    )
    assert warned == set(re.findall(r"`(?!isEnabledFor)(\w+\(\))`", deprecated))


# Workflows


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_named_by_its_commit(path: Path) -> None:
    used = re.findall(r"\buses: (.*)", path.read_text(encoding="utf-8"))
    assert used
    for each in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+", each)


def test_an_action_has_one_version_in_all_workflows() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    used = set(re.findall(r"\buses: (.*)", text))
    assert len(used) == len({each.split("@")[0] for each in used})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_nothing_that_a_job_does_not_ask_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)
    writes = {"tests.yml": set[str](), "release.yml": {"id-token", "contents"}}
    assert set(re.findall(r"([\w-]+): write", text)) == writes[path.name]


def test_the_workflow_runs_environments_that_tox_has() -> None:
    (named,) = re.findall(r"^ +environment: \[(.*)\]$", text_of(".github/workflows/tests.yml"), re.MULTILINE)
    for each in named.split(", "):
        assert f"\n[testenv:{each}]\n" in text_of("tox.ini")
