from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radloom.geometry import apply_affine, flip_lps_ras
from radloom.pipelines.deidentify import Pseudonyms, deidentify_records
from radloom.pipelines.export.dicom.source import NoDicomSource, source_of_role, source_of_series
from radloom.pipelines.ingest import discover
from radloom.pipelines.receipts.records import write_record
from radloom.pipelines.study import Study
from radloom.shapes import affine_of, array_of


def test_headers_stand_in_the_order_of_the_volumes_slices(study: Study) -> None:
    for role in ("t1", "t2", "ct"):
        source = source_of_role(study, role)
        volume = study.latest(role).volume
        assert source.shape == tuple(volume.shape[1:])
        assert source.has_slices
        for k in range(source.shape[2]):
            dataset, frame = source.slice_source(k)
            assert frame == 0
            assert "PixelData" not in dataset
            place = apply_affine(flip_lps_ras(affine_of(volume)), (0, 0, k))
            np.testing.assert_allclose(place, dataset.ImagePositionPatient, atol=1e-4)
        assert array_of(volume).shape[3] == len({ds.SOPInstanceUID for ds in source.datasets})


def test_frame_of_reference_is_made_where_the_source_has_none(
    write_scans: Callable[..., Path], study_of: Callable[..., Study], scan_type: Any
) -> None:
    folder = write_scans(scan_type(headers={"FrameOfReferenceUID": ""}))
    study = study_of(folder, "t1")
    made = source_of_role(study, "t1").frame_of_reference_uid
    assert made.startswith("2.25.")
    assert source_of_role(study, "t1").frame_of_reference_uid == made


def test_deidentified_headers_hold_no_identifier_and_the_keys_own_uids(
    write_scans: Callable[..., Path], scan_type: Any, tmp_path: Path
) -> None:
    folder = write_scans(scan_type())
    (plain,) = discover(folder)
    names = Pseudonyms(bytes(range(32)))
    (record,) = deidentify_records([plain], names)
    source = source_of_series(record, record.series[0])
    text = "\n".join(str(dataset) for dataset in source.datasets)
    for secret in ("Mustermann", "Maria", "SECRET4711", "19700102", "ACC123456", "Who", "20200304"):
        assert secret not in text
    assert "1.2.826.99" not in text
    first = source.first
    assert first.PatientID == record.subject
    assert first.SOPInstanceUID == names.uid("1.2.826.99.1.1")
    assert source.frame_of_reference_uid == names.uid("1.2.826.77.1")
    assert first.StudyDate == names.date("SECRET4711", "20200304")
    written = write_record(tmp_path, record).read_text(encoding="utf-8")
    assert "pseudonyms" not in written
    assert "1.2.826.99" not in written
    assert "pseudonyms" not in repr(record)


def test_without_pseudonyms_a_deidentified_study_has_no_source(
    write_scans: Callable[..., Path], scan_type: Any
) -> None:
    from dataclasses import replace

    (plain,) = discover(write_scans(scan_type()))
    (record,) = deidentify_records([plain], Pseudonyms(bytes(32)))
    with pytest.raises(NoDicomSource, match="pseudonyms that are not known"):
        source_of_series(replace(record, pseudonyms=None), record.series[0])


def test_files_without_dicom_and_files_that_went_have_no_source(study: Study) -> None:
    from dataclasses import replace

    series = study.record.series[0]
    with pytest.raises(NoDicomSource, match="came from no DICOM"):
        source_of_series(study.record, replace(series, reader="nifti"))
    for path in series.files:
        (study.record.root / path).unlink()
    with pytest.raises(NoDicomSource, match="cannot be read"):
        source_of_series(study.record, series)
    with pytest.raises(NoDicomSource, match="expected a volume from ingestion"):
        source_of_role(study, "pet")


def test_values_that_break_the_standard_are_not_inherited(
    write_scans: Callable[..., Path], study_of: Callable[..., Study], scan_type: Any
) -> None:
    odd = {"PatientSex": "X", "StudyTime": "25 past", "PatientBirthDate": "2.1.1970"}
    from radloom.pipelines.ingest.quiet import quiet_dicom

    with quiet_dicom():
        folder = write_scans(scan_type(headers=odd))
    first = source_of_role(study_of(folder, "t1"), "t1").first
    assert (first.PatientSex, first.StudyTime, first.PatientBirthDate) == ("", "", "")
