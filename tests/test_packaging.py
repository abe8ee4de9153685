"""What is declared, what is in the tree and what the README says are one thing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib")

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
ROOMS = PROJECT["tool"]["setuptools"]["package-dir"]


def folder_of(package: str) -> Path:
    room = next(
        r for r in sorted(ROOMS, reverse=True) if package == r or package.startswith(r + ".")
    )
    return REPOSITORY / ROOMS[room] / Path(*package[len(room) :].strip(".").split("."))


def test_every_declared_package_is_a_folder_and_every_folder_is_declared():
    declared = set(PROJECT["tool"]["setuptools"]["packages"])
    for package in declared:
        assert folder_of(package).is_dir(), package
    found = {
        ".".join([room, *path.parent.relative_to(REPOSITORY / folder).parts])
        for room, folder in ROOMS.items()
        for path in (REPOSITORY / folder).rglob("__init__.py")
    }
    assert found - declared == set()


def tracked() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [REPOSITORY / name for name in listed.decode().split("\0") if name]


def test_tracked_files_stay_small():
    sizes = {path: path.stat().st_size for path in tracked() if path.is_file()}
    assert max(sizes.values()) <= 16 * 2**20
    assert sum(sizes.values()) <= 40 * 2**20


def test_bundles_hold_no_python_and_are_package_data():
    data = PROJECT["tool"]["setuptools"]["package-data"]["radloom.bundles"]
    bundles = REPOSITORY / "bundles"
    for path in tracked():
        if bundles in path.parents:
            assert path.suffix != ".py"
            inside = path.relative_to(bundles)
            assert any(inside.match(pattern) for pattern in data), inside


def test_data_files_of_the_rooms_are_declared():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        if package == "radloom.bundles":
            continue
        for path in folder_of(package).iterdir():
            if path.is_file() and path.suffix not in {".py", ".pyc"}:
                patterns = data.get(package, [])
                assert any(path.match(pattern) for pattern in patterns), path


def test_version_is_said_once():
    from radloom import __version__

    assert PROJECT["project"]["dynamic"] == ["version"]
    newest = re.search(r"^## \[(.+?)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) in {__version__, "Unreleased"}


def test_imports_run_one_way():
    order = [
        "errors", "geometry", "voxels", "shapes", "threads", "transforms", "models", "pipelines",
        "cli",
    ]  # fmt: skip
    allowed = {room: set(order[: n + 1]) for n, room in enumerate(order)}
    rooms = {"transforms": "transforms", "models": "models", "pipelines": "pipelines"}
    pattern = re.compile(r"^\s*(?:from|import) radloom\.(\w+)", re.MULTILINE)
    for room, folder in rooms.items():
        for path in (REPOSITORY / folder).rglob("*.py"):
            used = set(pattern.findall(path.read_text())) - {"bundles"}
            assert used <= allowed[room], f"{path}: {used - allowed[room]}"


def test_only_the_command_line_reads_the_environment():
    for folder in ("pipelines", "transforms", "models"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert not re.search(r"os\.(environ|getenv|putenv)", path.read_text()), path
