from __future__ import annotations

import pytest

from radloom.errors import ConfigError
from radloom.pipelines.deidentify import Pseudonyms, make_key, read_key
from radloom.pipelines.deidentify.profile import load_profile

NAMES = Pseudonyms(bytes(range(32)))


def test_a_key_is_private_random_and_read_back(tmp_path):
    made = make_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert read_key(tmp_path / "key") == made
    assert made != make_key(tmp_path / "other")
    assert made.key.hex() not in repr(made)
    with pytest.raises(ConfigError, match="expected no file"):
        make_key(tmp_path / "key")


def test_keys_that_are_not_taken(tmp_path):
    with pytest.raises(ConfigError, match="--new-key makes one"):
        read_key(tmp_path / "none")
    (tmp_path / "short").write_text("abc")
    with pytest.raises(ConfigError, match="expected a key of 64 hex digits"):
        read_key(tmp_path / "short")
    make_key(tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(ConfigError, match="its owner alone can read"):
        read_key(tmp_path / "open")


def test_pseudonyms_follow_from_key_and_original_alone():
    other = Pseudonyms(bytes(32))
    assert NAMES.subject("A") == NAMES.subject(" A ") != NAMES.subject("B")
    assert NAMES.subject("A") != other.subject("A")
    assert NAMES.uid("1.2.3") != other.uid("1.2.3")
    assert NAMES.uid("1.2.840.10008.5.1.4.1.1.4") == "1.2.840.10008.5.1.4.1.1.4"
    assert len(NAMES.uid("1.2.3")) <= 64
    assert len({NAMES.days(str(n)) for n in range(200)}) > 150
    assert all(-3652 <= NAMES.days(str(n)) <= -1 for n in range(200))


@pytest.mark.parametrize("date", ["", "x", "20201399", "2020", "99991231x", "00010101"])
def test_what_is_no_date_leaves_nothing(date):
    assert NAMES.date("A", date) == ""


def test_known_answers_hold_for_ever():
    """The same key must give the same pseudonyms in every later version."""
    assert NAMES.subject("4711") == "a81ffa6e1c"
    assert NAMES.uid("1.2.3") == "2.25.333561220197859086174751499281832613459"
    assert NAMES.days("4711") == -2532


def test_the_table_names_attributes_of_the_standard():
    profile = load_profile()
    assert len(profile.actions) > 300
    assert {"remove", "empty", "dummy", "label", "words", "text", "binary"} <= set(
        profile.actions.values()
    )
    assert all(word == word.lower() for word in profile.vocabulary)
