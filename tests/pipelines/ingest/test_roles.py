from __future__ import annotations

import pytest

from radloom.pipelines.ingest.discovery import discover
from radloom.pipelines.ingest.roles import Acquisition, role_of, role_of_words

# Protocols of vendors and textbooks: sequence, TR, TE, TI, flip angle -> role.
PROTOCOLS = [
    (["GR", "IR"], 2300, 2.98, 900, 9, "t1"),  # Siemens MPRAGE
    (["GR"], 8.2, 3.2, 450, 12, "t1"),  # GE BRAVO
    (["GR"], 8.1, 3.7, None, 8, "t1"),  # Philips T1 TFE
    (["GR"], 250, 2.5, None, 70, "t1"),  # 2D FLASH
    (["SE"], 550, 12, None, 90, "t1"),
    (["SE", "IR"], 2000, 9, 860, 150, "t1"),  # T1 FLAIR
    (["SE"], 4500, 100, None, 150, "t2"),
    (["SE"], 3200, 408, None, 120, "t2"),  # SPACE
    (["SE", "IR"], 9000, 81, 2500, 150, "flair"),
    (["SE", "IR"], 5000, 388, 1800, 120, "flair"),  # 3D FLAIR
    (["IR"], 11000, 125, 2800, 90, "flair"),  # Philips
    (["SE"], 3000, 15, None, 150, "pd"),
    (["SE", "IR"], 4000, 40, 160, 150, ""),  # STIR
    (["EP"], 3000, 30, None, 90, ""),
    (["EP", "SE"], 6000, 90, None, 90, ""),
    (["GR"], 700, 20, None, 20, ""),  # T2*
    (["SE"], 1500, 50, None, 90, ""),  # between T1, T2 and PD
]


@pytest.mark.parametrize(("sequence", "tr", "te", "ti", "fa", "role"), PROTOCOLS)
def test_protocols_get_their_role_from_tags_alone(sequence, tr, te, ti, fa, role):
    tags = {"ScanningSequence": sequence, "RepetitionTime": tr, "EchoTime": te, "FlipAngle": fa}
    tags |= {} if ti is None else {"InversionTime": ti}
    assert role_of(Acquisition("MR", tags)).role == role


MPRAGE = {"ScanningSequence": ["GR", "IR"], "RepetitionTime": 2300, "EchoTime": 3,
          "InversionTime": 900, "FlipAngle": 9}  # fmt: skip


def test_contrast_agent_makes_the_t1_another_role():
    assert role_of(Acquisition("MR", {**MPRAGE, "ContrastBolusAgent": "Gadovist"})).role == "t1ce"
    assert role_of(Acquisition("MR", MPRAGE, words="t1_mprage_post_gd")).role == "t1ce"


@pytest.mark.parametrize(
    "words",
    ["ADC", "t1_map", "TOF_3D", "SWI_mag", "gre_field_mapping", "AAHScout", "DTI_FA", "mip"],
)
def test_maps_and_other_sequences_have_no_role_whatever_their_tags(words):
    assert role_of(Acquisition("MR", MPRAGE, words=words)).role == ""


def test_image_type_and_body_part_exclude():
    derived = Acquisition("MR", MPRAGE, image_type=("DERIVED", "PRIMARY", "SUBTRACTION"))
    assert role_of(derived).role == ""
    assert role_of(Acquisition("MR", {**MPRAGE, "BodyPartExamined": "KNEE"})).role == ""


@pytest.mark.parametrize(
    ("words", "role"),
    [
        ("study1_T1W", "t1"), ("T2W", "t2"), ("FLAIR", "flair"), ("t2_flair_dark_fluid", "flair"),
        ("t1_gd", "t1ce"), ("T1ce", "t1ce"), ("PDw", "pd"), ("t2star", ""), ("T1w_mask", ""),
        ("brain_seg", ""), ("ct", "ct"), ("FDG_pet", "pet"), ("series 5", ""), ("direct", ""),
    ],
)  # fmt: skip
def test_words_decide_last(words, role):
    assert role_of_words(words).role == role
    assert role_of(Acquisition("MR", {}, words=words)).role == (
        role if role not in ("ct", "pet") else ""
    )


@pytest.mark.parametrize(
    ("words", "extent", "role"),
    [("Head 1mm", 500, "ct"), ("", 230, "ct"), ("", 400, ""), ("Thorax", 250, "")],
)
def test_head_ct_is_told_from_the_rest(words, extent, role):
    acquisition = Acquisition("CT", {}, words=words, extent_mm=(extent, extent, 160))
    assert role_of(acquisition).role == role


@pytest.mark.real_data
def test_real_scans_have_the_roles_that_a_reader_gives_them(real_data):
    found = {
        name: sorted(
            (series.description, series.role)
            for study in discover(real_data / "studies" / name)
            for series in study.series
            if series.role
        )
        for name in ("mprage", "ms01", "mr_sagittal_mixed")
    }
    assert found == {
        "mprage": [("SAG MPRAGE 220 FOV", "t1")],
        "ms01": [
            (f"study{n}_{name}", role)
            for n in (1, 2)
            for name, role in (("FLAIR", "flair"), ("T1W", "t1"), ("T2W", "t2"))
        ],
        "mr_sagittal_mixed": [("t1_fl2d_sag", "t1")],
    }


@pytest.mark.real_data
def test_real_scans_of_all_vendors_without_names(real_data):
    """Times and sequence alone: the descriptions were taken out of these files."""
    roles = [
        (series.role, series.role_rule.split(":")[0])
        for study in discover(real_data / "dicom" / "vendors")
        for series in study.series
        if series.reader == "highdicom" and series.role
    ]
    names = {rule for role, rule in roles}
    assert {role for role, _ in roles} == {"t1", "flair", "pd"}
    assert "fluid-attenuated contrast" in names  # Philips, enhanced, TI 1400
    assert "spoiled gradient echo" in names  # Philips, enhanced
    assert "inversion recovery gradient echo" in names  # GE
    assert "long inversion time, T2 weighting" in names  # Siemens, Philips classic
