"""Packs the vectors of spec/vectors: into the source archive as `vectors`, into a wheel as part of the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent


def vectors() -> Path:
    """Return the folder of the vectors: that of an unpacked source archive, or that of the repository."""
    own = HERE / "vectors"
    return own if own.is_dir() else HERE.parent / "spec" / "vectors"


class BuildWithVectors(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "durus_conformance", "vectors")
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree(vectors(), target)


class ArchiveWithVectors(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        shutil.copytree(vectors(), Path(base_dir, "vectors"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithVectors, "sdist": ArchiveWithVectors})
