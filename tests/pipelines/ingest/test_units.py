"""Units of built series: HU, Bq/mL and SUV from the files to the volume and its sidecar."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from radloom.errors import SeriesRefused
from radloom.pipelines.ingest import IngestStage, discover, read_series
from radloom.pipelines.ingest.options import IngestOptions
from radloom.pipelines.stage import Context
from radloom.pipelines.study import Study
from radloom.shapes import array_of

CONTEXT = Context(torch.device("cpu"), torch.Generator())
SUV = IngestOptions(suv=True)

HALF_LIFE_S = 6586.2
DOSE_BQ = 350e6
PET = {
    "Units": "BQML",
    "CorrectedImage": ["DECY", "ATTN", "SCAT"],
    "DecayCorrection": "START",
    "PatientWeight": "70",
    "SeriesDate": "20240510",
    "SeriesTime": "111500",
    "AcquisitionDate": "20240510",
    "AcquisitionTime": "111500",
    "RescaleSlope": "0.5",
    "RescaleIntercept": "0",
    "Manufacturer": "Some maker",
}
FACTOR = 70_000 / (DOSE_BQ * 0.5 ** (3600 / HALF_LIFE_S))


def injection(**changes) -> list[Dataset]:
    item = Dataset()
    values = {
        "RadiopharmaceuticalStartTime": "101500",
        "RadionuclideTotalDose": "350000000",
        "RadionuclideHalfLife": "6586.2",
    }
    for keyword, value in (values | changes).items():
        setattr(item, keyword, value)
    return [item]


@pytest.fixture
def pet(tmp_path, series):
    """Writes a PET series; gives its rescaled values."""

    def write(edit=None, **tags) -> np.ndarray:
        def with_injection(dataset, k):
            dataset.RadiopharmaceuticalInformationSequence = injection()
            if edit is not None:
                edit(dataset, k)

        stored = series(tmp_path / "in", modality="PT", edit=with_injection, **PET | tags)
        return stored.astype(np.float64) * 0.5

    return write


def read(folder, options=SUV):
    (study,) = discover(folder, options=options)
    (record,) = study.series
    return record, read_series(study, record)


def test_suv_is_asked_for_and_stands_in_record_volume_and_sidecar(tmp_path, pet):
    values = pet()
    record, volume = read(tmp_path / "in")
    assert (record.units, volume.meta["units"], record.role) == ("SUV", "SUV", "pet")
    np.testing.assert_allclose(array_of(volume)[0], values * FACTOR, rtol=1e-6)
    assert record.headers["UnitsSource"] == "SeriesTime (0008,0031)"
    assert record.headers["UnitsScale"] == pytest.approx(FACTOR)
    assert record.headers["SecondsFromInjection"] == 3600
    # Nothing of the patient or of the day goes into the sidecar.
    told = " ".join(map(str, record.headers.values()))
    assert not any(word in told for word in ("70.0", "20240510", "101500"))


def test_without_asking_it_stays_activity(tmp_path, pet):
    values = pet()
    record, volume = read(tmp_path / "in", IngestOptions())
    assert (record.units, volume.meta["units"]) == ("Bq/mL", "Bq/mL")
    np.testing.assert_allclose(array_of(volume)[0], values, rtol=1e-6)


def test_the_stage_refuses_what_lacks_the_weight_and_says_so(tmp_path, pet):
    pet(edit=lambda d, _: delattr(d, "PatientWeight"))
    stage = IngestStage(suv=True)
    (record,) = discover(tmp_path / "in", options=stage.options)
    result = stage.run(Study(record), CONTEXT)
    assert result.status == "skipped"
    (row,) = result.outputs[-1].table
    assert (row["status"], row["reason"]) == ("rejected", "suv_unknown")
    assert row["detail"].startswith("PatientWeight (0010,1030) in kg: expected a number")
    # The same files are good for Bq/mL.
    assert read(tmp_path / "in", IngestOptions())[1].meta["units"] == "Bq/mL"
    assert stage.fingerprint() != IngestStage().fingerprint()


def test_bed_positions_have_one_reference_and_each_slice_its_slope(tmp_path, pet):
    def edit(dataset, k):
        dataset.AcquisitionTime = f"11{15 + 3 * (k // 2)}00"
        dataset.RescaleSlope = str(0.5 * (k + 1))

    values = pet(edit=edit)
    _, volume = read(tmp_path / "in")
    expected = values * np.arange(1, 6) * FACTOR
    np.testing.assert_allclose(array_of(volume)[0], expected, rtol=1e-6)


def test_ge_private_scan_time_is_read_from_its_own_block(tmp_path, pet):
    def edit(dataset, k, creator="GEMS_PETD_01"):
        del k
        dataset.SeriesTime = "140000"
        block = dataset.private_block(0x0009, creator, create=True)
        block.add_new(0x0D, "DT", "20240510111500.00")

    values = pet(edit=edit)
    record, volume = read(tmp_path / "in")
    assert record.headers["UnitsSource"] == "GE scan time (0009,100D)"
    np.testing.assert_allclose(array_of(volume)[0], values * FACTOR, rtol=1e-6)
    pet(edit=lambda d, k: edit(d, k, "ANOTHER MAKER"), seed=1)
    with pytest.raises(SeriesRefused, match="suv_unknown"):
        read(tmp_path / "in")


@pytest.mark.parametrize(
    ("element", "options", "units", "scale"),
    [
        (0x00, SUV, "SUV", 0.25),
        (0x00, IngestOptions(), "SUV", 0.25),
        (0x09, SUV, "SUV", 0.25 * FACTOR),
        (0x09, IngestOptions(), "Bq/mL", 0.25),
    ],
)
def test_philips_counts(tmp_path, pet, element, options, units, scale):
    def edit(dataset, k):
        block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(element, "DS", str(0.25 * (k + 1)))

    values = pet(edit=edit, Units="CNTS", Manufacturer="Philips Medical Systems")
    record, volume = read(tmp_path / "in", options)
    assert record.units == volume.meta["units"] == units
    np.testing.assert_allclose(array_of(volume)[0], values * np.arange(1, 6) * scale, rtol=1e-6)


def test_private_factors_are_read_without_value_representations(tmp_path, pet):
    """Implicit VR, as many archives send it: the private elements come without a type."""

    def edit(dataset, k):
        del k
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(0x00, "DS", "0.25")
        block = dataset.private_block(0x0009, "GEMS_PETD_01", create=True)
        block.add_new(0x0D, "DT", "20240510111500.00")

    values = pet(edit=edit, Units="CNTS")
    _, volume = read(tmp_path / "in")
    np.testing.assert_allclose(array_of(volume)[0], values * 0.25, rtol=1e-6)
    pet(edit=edit, seed=1, SeriesTime="140000")
    record, _ = read(tmp_path / "in")
    assert record.headers["UnitsSource"] == "GE scan time (0009,100D)"


def test_counts_of_others_are_refused(tmp_path, pet):
    pet(Units="CNTS")
    with pytest.raises(SeriesRefused, match=r"ambiguous_units: Units.*CNTS without Philips"):
        read(tmp_path / "in", IngestOptions())
    with pytest.raises(SeriesRefused, match="without Philips"):
        read(tmp_path / "in", SUV)


def test_suv_as_stored_is_suv(tmp_path, pet):
    values = pet(Units="GML")
    for options in (SUV, IngestOptions()):
        _, volume = read(tmp_path / "in", options)
        assert volume.meta["units"] == "SUV"
        np.testing.assert_allclose(array_of(volume)[0], values, rtol=1e-6)


def test_a_time_series_of_pet_is_scaled_as_one(tmp_path, series):
    stored = [
        series(
            tmp_path,
            modality="PT",
            series_uid="1.2.9",
            names=f"{t}_{{}}".format,
            seed=t,
            n=4,
            edit=lambda d, k, t=t: (
                setattr(d, "InstanceNumber", 4 * t + k + 1),
                setattr(d, "RadiopharmaceuticalInformationSequence", injection()),
            ),
            **PET | {"AcquisitionTime": f"11{15 + 5 * t}00"},
            TemporalPositionIdentifier=t + 1,
            FrameReferenceTime=str(150_000 + 300_000 * t),
            ActualFrameDuration="300000",
        )
        for t in range(3)
    ]
    record, volume = read(tmp_path)
    assert record.units == "SUV"
    expected = np.stack(stored).astype(np.float64) * 0.5 * FACTOR
    np.testing.assert_allclose(array_of(volume), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda d, _: delattr(d, "RescaleSlope"), "expected RescaleSlope and RescaleIntercept"),
        (lambda d, _: setattr(d, "RescaleType", "US"), r"RescaleType \(0028,1054\) US"),
        (lambda d, k: delattr(d, "RescaleSlope") if k else None, "got 1 of 5"),
    ],
)
def test_ct_without_certain_hu_is_refused(tmp_path, series, edit, match):
    series(tmp_path, modality="CT", edit=edit)
    with pytest.raises(SeriesRefused, match=f"ambiguous_units: .*{match}"):
        read(tmp_path, IngestOptions())


def test_pet_without_rescaling_is_refused(tmp_path, pet):
    pet(edit=lambda d, _: delattr(d, "RescaleSlope"))
    with pytest.raises(SeriesRefused, match="ambiguous_units: RescaleSlope"):
        read(tmp_path / "in", IngestOptions())
