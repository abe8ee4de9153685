"""What a bundle declares, and declarations that contradict themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from radloom.errors import ConfigError
from radloom.models.bundles import find_bundle
from radloom.models.translation.declaration import ANY, Declaration, read_declaration


def write(folder: Path, n: int = 1, names: tuple[str, ...] = (), **said) -> Path:
    (folder / "configs").mkdir(exist_ok=True)
    image = {"num_channels": n, "channel_def": dict(enumerate(names))}
    metadata = {"network_data_format": {"inputs": {"image": image}}, "radloom": said}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def test_our_own_bundle_takes_any_mr_and_says_its_error() -> None:
    found = read_declaration(find_bundle("head_mr_to_ct_translation"))
    assert found.contrasts == (ANY,)
    assert found.scores == (1, 2, 3)
    assert found.uncertainty == 4
    assert set(found.seen) == {"t1", "t1ce", "t2", "flair", "pd"}


def test_a_bundle_that_declares_nothing_takes_one_mr(tmp_path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text("{}")
    assert read_declaration(tmp_path) == Declaration()


def test_several_contrasts_go_by_their_names(tmp_path) -> None:
    found = read_declaration(write(tmp_path, 3, ("T1w", "T2", "FLAIR"), kvp=100))
    assert found.contrasts == ("t1", "t2", "flair")
    assert (found.missing, found.kvp, found.uncertainty) == ("told", 100, None)
    assert read_declaration(write(tmp_path, 2, ("t1", "t2"), missing="refuse")).missing == "refuse"


@pytest.mark.parametrize(
    ("arguments", "said", "message"),
    [
        ((2, ("t1", "depth")), {}, "to name a contrast for each of 2 channels .* got 'depth'"),
        ((2, ("t1",)), {}, "got ''"),
        ((2, ("t1", "t2")), {"missing": "best"}, "got 'best' for 2"),
        ((1,), {"missing": "told"}, "got 'told' for 1"),
        ((1,), {"kvp": 90}, "expected kvp of .* got 90"),
    ],
)
def test_contradictions_are_refused(tmp_path, arguments, said, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_declaration(write(tmp_path, *arguments, **said))
