"""The pages link to what exists and name commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_commands_and_options_named_exist(page):
    import typer.main

    from radloom.cli import app

    commands = typer.main.get_command(app).commands
    for line in re.findall(r"^\s*(?:\S*/)?radloom ([a-z].*)$", page.read_text(), re.MULTILINE):
        words = line.split("#")[0].split()
        assert words[0] in commands, line
        known = {option for p in commands[words[0]].params for option in p.opts}
        known |= {option for p in commands[words[0]].params for option in p.secondary_opts}
        for word in re.findall(r"--[a-z-]+", line.split("#")[0]):
            assert word in known | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_python_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for snippet in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(snippet, str(page), "exec"), {})


def test_the_reference_states_the_tolerances_as_they_are():
    from radloom.transforms import dicom, slice_spacing

    constants = {**vars(slice_spacing), **vars(dicom)}
    page = (REPOSITORY / "docs" / "reference" / "ingestion.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|", page, re.MULTILINE))
    assert {name: float(value) for name, value in rows.items()} == {
        name: float(value)
        for name, value in constants.items()
        if name.isupper() and isinstance(value, int | float) and name != "MOST_NAMED"
    }


def test_the_reference_names_every_reason_code_and_whether_it_is_a_fault():
    from radloom.errors import ReasonCode

    page = (REPOSITORY / "docs" / "reference" / "reason-codes.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (yes)? ?\|", page, re.MULTILINE))
    assert rows == {code.value: "yes" if code.is_fault else "" for code in ReasonCode}
