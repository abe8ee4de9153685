"""The file of role rules: what it may say, and that edits reach inspect and a run's receipts."""

from __future__ import annotations

import json

import pytest

from radloom.errors import ConfigError
from radloom.pipelines.ingest.discovery import discover
from radloom.pipelines.ingest.roles import Acquisition, role_of
from radloom.pipelines.ingest.rules import builtin_rules, builtin_text, load_rules
from radloom.pipelines.ingest.stage import IngestStage
from radloom.pipelines.study import Study

OWN = """
rules:
  - rule: our research sequence
    role: t2
    when: {words: '^xyz', te_ms: [10, null]}
"""


def write(tmp_path, text):
    path = tmp_path / "roles.yaml"
    path.write_text(text)
    return path


def test_the_printed_rules_are_a_file_that_gives_the_same_rules(tmp_path):
    assert load_rules(write(tmp_path, builtin_text())) == builtin_rules() == load_rules(None)


def test_a_users_file_takes_the_place_of_the_builtin_rules_or_goes_before_them(tmp_path):
    own, mprage = Acquisition("MR", {"EchoTime": 20}, words="xyz"), Acquisition("", words="t1")
    alone = load_rules(write(tmp_path, OWN))
    assert role_of(own, alone) == ("t2", "our research sequence: TE 20, 'xyz'")
    assert role_of(mprage, alone).role == ""
    both = load_rules(write(tmp_path, "then_builtin: true" + OWN))
    assert role_of(own, both).role == "t2"
    assert role_of(mprage, both).role == "t1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rulez: []", "unknown key 'rulez'; known: then_builtin, rules, refine"),
        (OWN.replace("te_ms", "te"), "unknown key 'rules.0.when.te'; known: modality, sequence"),
        (OWN.replace("role:", "gives:"), "rules.0.role|unknown key 'rules.0.gives'"),
        (OWN.replace("role: t2", "role: t3"), "rules.0.role: "),
        (OWN.replace("[10, null]", "[10, 5]"), r"expected \[lowest, highest\], got \[10, 5\]"),
        (OWN.replace("^xyz", "(xyz"), "expected a regular expression, got"),
        (OWN.replace("words: '^xyz'", "tags: {PatientName: x}"), "unknown keyword 'PatientName'"),
        (OWN + OWN.split("rules:")[1], "expected each rule's name once"),
        ("", "expected at least one rule"),
        ("rules: [", "expected plain YAML"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_rules(write(tmp_path, text))


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="which is not there"):
        load_rules(tmp_path / "no.yaml")


def test_a_changed_rule_changes_what_the_ingest_stage_depends_on(tmp_path, series):
    series(tmp_path / "in", SeriesDescription="xyz", EchoTime=20)
    before, after = (
        discover(tmp_path / "in", rules=rules)[0]
        for rules in (None, load_rules(write(tmp_path, "then_builtin: true" + OWN)))
    )
    assert (before.series[0].role, after.series[0].role) == ("", "t2")
    stage = IngestStage()
    assert stage.input_hashes(Study(before)) != stage.input_hashes(Study(after))
    assert stage.fingerprint() == IngestStage(roles=tmp_path / "roles.yaml").fingerprint()


def test_roles_on_the_command_line(tmp_path, series):
    from typer.testing import CliRunner

    from radloom.cli import app

    series(tmp_path / "in", SeriesDescription="xyz", EchoTime=20)
    path = write(tmp_path, OWN)
    shown = CliRunner().invoke(app, ["inspect", "--print-roles"])
    assert (shown.exit_code, shown.output) == (0, builtin_text())
    done = CliRunner().invoke(
        app, ["inspect", str(tmp_path / "in"), "--json", "--roles", str(path)]
    )
    (row,) = json.loads(done.output)
    assert (row["role"], row["rule"]) == ("t2", "our research sequence: TE 20, 'xyz'")
    path.write_text("rulez: []")
    assert CliRunner().invoke(app, ["inspect", str(tmp_path), "--roles", str(path)]).exit_code == 2
