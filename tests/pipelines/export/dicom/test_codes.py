"""Codes are those of the standard, for every structure that we name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from pydicom.sr.codedict import codes

from radloom.models.segmentation.classes import CLASSES
from radloom.pipelines.export.dicom.codes import NAMES, SIDES, cielab_of, codes_of, rgb_of

TABLE = Path(__file__).parents[4] / "docs" / "reference" / "labels.md"


def standard_meanings() -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for scheme in ("SCT", "DCM"):
        collection = getattr(codes, scheme)
        for keyword in collection.dir():
            code = getattr(collection, keyword)
            meaning = code.meaning.lower().removesuffix(" (body structure)")
            found.setdefault((scheme, code.value), set()).add(meaning)
    return found


def test_every_code_is_in_the_standard_with_its_meaning():
    known = standard_meanings()
    concepts = [c for pair in NAMES.values() for c in pair] + list(SIDES.values())
    wrong = {c for c in concepts if c.meaning.lower() not in known.get((c.scheme, c.value), set())}
    assert not wrong


def test_every_structure_of_the_table_of_labels_is_known():
    names = re.findall(r"^\| \d+ \|[^|]*\| (.+?) \|$", TABLE.read_text("utf-8"), re.MULTILINE)
    assert len(names) > 35
    assert [n for n in names if n != "background" and not codes_of(n).is_known] == []


def test_every_class_of_our_model_is_known_with_its_side():
    for item in CLASSES[1:]:
        found = codes_of(item.name)
        assert found.is_known, item.name
        side = item.name.split()[0]
        assert (found.side.meaning.lower() if found.side else "") == (side if side in SIDES else "")


@pytest.mark.parametrize(
    ("name", "meaning", "side"),
    [
        ("spleen", "Spleen", None),
        ("kidney_left", "Kidney", "Left"),
        ("Right-Thalamus", "Thalamus", "Right"),
        ("lung_upper_lobe_left", "Upper lobe of lung", "Left"),
        ("heart left ventricle", "Tissue", "Left"),
        ("left and right lungs", "Tissue", None),
        ("edema", "Edema", None),
        ("Anterior", "Tissue", None),
        ("", "Tissue", None),
    ],
)
def test_names_of_other_models(name, meaning, side):
    found = codes_of(name)
    assert found.type.meaning == meaning
    assert (found.side.meaning if found.side else None) == side
    assert found.is_known == (meaning != "Tissue")


def test_colours_survive_the_way_to_cielab_and_back():
    from skimage.color import lab2xyz

    from_xyz = np.linalg.inv(
        [
            [0.4360747, 0.3850649, 0.1430804],
            [0.2225045, 0.7168786, 0.0606169],
            [0.0139322, 0.0971045, 0.7141733],
        ]
    )
    for colour in ("#ff0000", "#12c85a", "#1e28fa", "#808080"):
        light, a, b = cielab_of(rgb_of(colour))
        lab = [light * 100 / 65535, a * 255 / 65535 - 128, b * 255 / 65535 - 128]
        linear = from_xyz @ lab2xyz(np.array([[lab]]), illuminant="D50")[0, 0]
        coded = np.where(
            linear <= 0.0031308, linear * 12.92, 1.055 * linear.clip(0) ** (1 / 2.4) - 0.055
        )
        assert np.abs(coded * 255 - rgb_of(colour)).max() < 1.0
