from __future__ import annotations

from pathlib import Path

import pytest

from radloom.errors import InputError
from radloom.pipelines.export.naming import ROLE_PARTS, SPACE_LABELS, file_stem, to_label
from radloom.pipelines.study import Output, StudyRecord

RECORD = StudyRecord("x", "1", "1.2", Path(), ())


def stem(kind, role, name, space="", record=RECORD, **entities) -> str:
    output = Output(kind, role, name, b"", space=space, entities=entities)
    return file_stem(output, record).as_posix()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("volume", "t1", "ingested"), "anat/@_T1w"),
        (("volume", "t1ce", "ingested"), "anat/@_ce-gadolinium_T1w"),
        (("volume", "flair", "denoised"), "anat/@_desc-denoised_FLAIR"),
        (("volume", "t2", "registered", "t1"), "anat/@_space-T1w_desc-registered_T2w"),
        (("volume", "ct", "registered", "t1ce"), "ct/@_space-T1wce_desc-registered_ct"),
        (("volume", "ct", "pseudo_ct", "t1"), "ct/@_space-T1w_desc-pseudoCt_ct"),
        (("volume", "pet", "ingested"), "pet/@_pet"),
        (("transform", "t2", "moving_from_fixed", "t1"), "anat/@_from-T2w_to-T1w_mode-image_xfm"),
        (("label", "t1", "brain_mr"), "anat/@_space-T1w_desc-brainMr_dseg"),
        (("label", "t2", "brain", "t1"), "anat/@_mod-T2w_space-T1w_desc-brain_dseg"),
        (("table", "t1", "volumes"), "anat/@_mod-T1w_desc-volumes_table"),
        (("table", "", "series"), "@_desc-series_table"),
        (("report", "", "ingest"), "figures/@_desc-ingest_report"),
        (("report", "t2", "register"), "figures/@_mod-T2w_desc-register_report"),
        (("dicom", "t1", "seg"), "dicom/desc-seg_T1w/@_desc-seg_T1w"),
    ],
)
def test_names_follow_from_what_an_output_is(given, expected):
    assert stem(*given) == "sub-x/ses-1/" + expected.replace("@", "sub-x_ses-1")


def test_entities_replace_and_stand_in_the_order_of_bids():
    entities = {"suffix": "dwi", "datatype": "dwi", "run": "2", "acq": "b-1000", "dir": "AP"}
    expected = "sub-x/ses-1/dwi/sub-x_ses-1_acq-b1000_dir-AP_run-2_dwi"
    assert stem("volume", "", "ingested", **entities) == expected
    assert stem("volume", "t1ce", "ingested", ce="").endswith("sub-x_ses-1_T1w")


def test_every_role_has_its_own_space_label_and_volume_name():
    assert len(set(SPACE_LABELS.values())) == len(ROLE_PARTS)
    assert len({stem("volume", role, "ingested") for role in ROLE_PARTS}) == len(ROLE_PARTS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("../../etc", "etc"), ("DOE^JANE", "DOEJANE"), ("a_b", "aB"), ("", ""), ("é/..", "")],
)
def test_labels_hold_letters_and_digits_only(text, expected):
    assert to_label(text) == expected


@pytest.mark.parametrize("label", ["", "../x", "a_b", "a b", "DOE^JANE"])
def test_a_subject_that_is_no_label_is_refused_unquoted(label):
    record = StudyRecord(label, "1", "1.2", Path(), ())
    with pytest.raises(InputError, match="expected a subject label") as caught:
        stem("volume", "t1", "ingested", record=record)
    assert "DOE" not in str(caught.value)


def test_unknown_entities_and_missing_suffixes_are_refused():
    with pytest.raises(InputError, match="acquisition"):
        stem("volume", "t1", "ingested", acquisition="x")
    with pytest.raises(InputError, match="expected a suffix"):
        stem("volume", "", "ingested")
