"""When volumes and slices of 4D series were acquired, against what dcm2niix says."""

from __future__ import annotations

import json
import subprocess

import dcm2niix
import nibabel as nib
import numpy as np
import pytest

from radloom.pipelines.ingest import discover
from radloom.pipelines.ingest.pixels import read_with_facts
from radloom.shapes import affine_of, array_of


def read_only(folder):
    (study,) = discover(folder)
    (series,) = study.series
    return read_with_facts(study, series)


REAL = [
    "enhanced/Siemens/XA10", "nih/20180918GE/mr_0004", "nih/20180918GE/mr_0006",
    "nih/20180918Si/mr_0003", "nih/20180918Si/mr_0004", "nih/20180918Si/mr_0005",
]  # fmt: skip


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_slices_and_axes_are_those_of_dcm2niix_turned_to_this_image(real_data, tmp_path, name):
    folder = real_data / "dicom" / name
    command = [dcm2niix.bin, "-z", "n", "-f", "out", "-o", str(tmp_path), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    said = json.loads((tmp_path / "out.json").read_text())
    reading = read_only(folder)
    ours, theirs = affine_of(reading.volume), nib.load(tmp_path / "out.nii").affine
    same = [float(ours[:3, axis] @ theirs[:3, axis]) > 0 for axis in range(3)]
    times = said["SliceTiming"] if same[2] else said["SliceTiming"][::-1]
    np.testing.assert_allclose(reading.facts["SliceTiming"], times, atol=3e-3)  # of another volume
    axis = "ijk".index(said["PhaseEncodingDirection"][0])
    is_down = said["PhaseEncodingDirection"].endswith("-") == same[axis]
    assert reading.facts["PhaseEncodingDirection"] == "ijk"[axis] + ("-" if is_down else "")
    for key in ("EffectiveEchoSpacing", "TotalReadoutTime"):
        assert reading.facts[key] == said[key]


def test_pet_frames_have_starts_and_durations(tmp_path, series):
    stored = []
    for t, (clock, reference, duration) in enumerate(
        (("100000", 5000, 10000), ("100010.5", 20000, 20000), ("100030.5", 60000, 60000))
    ):
        stored.append(
            series(
                tmp_path, modality="PT", series_uid="1.2.9", names=f"{9 - t}_{{}}".format, seed=t,
                AcquisitionDate="20200101", AcquisitionTime=clock, FrameReferenceTime=reference,
                ActualFrameDuration=duration, Units="BQML", DecayCorrection="START",
                RescaleSlope=0.5 + t, RescaleIntercept=0,
            )
        )  # fmt: skip
    reading = read_only(tmp_path)
    assert reading.facts["FrameTimesStart"] == [0.0, 10.5, 30.5]
    assert reading.facts["FrameDuration"] == [10.0, 20.0, 60.0]
    for t, values in enumerate(stored):
        np.testing.assert_allclose(array_of(reading.volume)[t], values * (0.5 + t), rtol=1e-6)


def test_slices_have_times_where_their_headers_differ_within_a_repetition(tmp_path, series):
    for t in range(2):
        series(
            tmp_path, series_uid="1.2.9", names=f"{t}_{{}}".format, seed=t,
            AcquisitionNumber=t + 1, AcquisitionDate="20200101", RepetitionTime=2000,
            Manufacturer="maker",
            edit=lambda d, k, t=t: setattr(
                d, "AcquisitionTime", f"1200{2 * t + (k * 2 % 5) * 0.4:09.6f}"
            ),
        )  # fmt: skip
    facts = read_only(tmp_path).facts
    assert facts["VolumeTiming"] == [0.0, 2.0]
    assert facts["SliceTiming"] == [0.0, 0.8, 1.6, 0.4, 1.2]


def test_no_date_of_an_examination_reaches_the_sidecar(tmp_path, series):
    for t in range(2):
        series(
            tmp_path, series_uid="1.2.9", names=f"{t}_{{}}".format, seed=t,
            AcquisitionNumber=t + 1, AcquisitionDate="20200131", AcquisitionTime=f"11223{t}",
        )  # fmt: skip
    text = json.dumps(dict(read_only(tmp_path).facts))
    assert "VolumeTiming" in text
    assert not any(word in text for word in ("2020", "0131", "1122"))
