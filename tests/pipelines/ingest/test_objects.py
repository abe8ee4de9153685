"""Every encoding and object that scanners and archives write comes back exactly, or is refused."""

from __future__ import annotations

import re
from pathlib import Path

import gdcm
import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from radloom.errors import SeriesRefused
from radloom.geometry import flip_lps_ras
from radloom.pipelines.ingest import discover, read_series
from radloom.pipelines.ingest.options import IngestOptions
from radloom.pipelines.ingest.pixels import read_with_facts
from radloom.shapes import affine_of, array_of

G = gdcm.TransferSyntax
BY_GDCM = {
    "jpeg lossless": G.JPEGLosslessProcess14_1,
    "jpeg lossless 14": G.JPEGLosslessProcess14,
    "jpeg-ls": G.JPEGLSLossless,
    "jpeg 2000": G.JPEG2000Lossless,
    "rle": G.RLELossless,
}
LOSSY = {
    ("jpeg baseline", 8): G.JPEGBaselineProcess1,
    ("jpeg extended", 12): G.JPEGExtendedProcess2_4,
    ("jpeg-ls near", 12): G.JPEGLSNearLossless,
    ("jpeg 2000", 12): G.JPEG2000,
}
PLAIN = {
    "implicit": ImplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
DEPTHS = [(8, 0), (8, 1), (10, 0), (12, 0), (12, 1), (14, 1), (15, 0), (16, 0), (16, 1)]


def smooth(n: int, bits: int, signed: int) -> np.ndarray:
    """(I, J, K) values over the whole range, smooth enough for lossy compression."""
    i, j, k = np.meshgrid(np.arange(24), np.arange(16), np.arange(n), indexing="ij")
    ramp = (np.sin(i / 5.0) + np.cos(j / 4.0 + k) + 2) / 4
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = np.round(low + ramp * (high - low))
    values[0, 0, 0], values[1, 0, 0] = low, high
    dtype = f"{'i' if signed else 'u'}{1 if bits == 8 else 2}"
    return values.astype(dtype)


def write_bits(folder: Path, series, bits: int, signed: int, **tags) -> np.ndarray:
    """A series of `bits` stored bits; returns its stored values."""
    values = smooth(4, bits, signed)

    def edit(dataset, k):
        dataset.BitsAllocated = 8 if bits == 8 else 16
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        dataset.PixelRepresentation = signed
        # The unused high bits of signed values repeat the sign, as scanners write them.
        dataset.PixelData = np.ascontiguousarray(values[:, :, k].T).tobytes()

    series(folder, n=4, rows=16, columns=24, edit=edit, **tags)
    return values


def transcode(folder: Path, syntax: int) -> None:
    for path in folder.iterdir():
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        if not change.Change():
            pytest.skip("GDCM does not write this")
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()


def resave(folder: Path, syntax: pydicom.uid.UID) -> None:
    for path in folder.iterdir():
        read = pydicom.dcmread(path)
        values, is_big = read.pixel_array, syntax == ExplicitVRBigEndian
        dataset = Dataset()
        dataset.update({element.tag: element for element in read})
        dataset.file_meta = read.file_meta
        dataset.file_meta.TransferSyntaxUID = syntax
        if is_big and values.dtype.itemsize == 2:
            dataset.PixelData = values.astype(values.dtype.newbyteorder(">")).tobytes()
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def read_only(folder: Path):
    (study,) = discover(folder)
    (series,) = study.series
    return read_series(study, series)


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
@pytest.mark.parametrize("name", PLAIN)
def test_uncompressed_syntaxes_are_exact(tmp_path, series, name, bits, signed):
    values = write_bits(tmp_path, series, bits, signed)
    resave(tmp_path, PLAIN[name])
    np.testing.assert_array_equal(array_of(read_only(tmp_path))[0], values)


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
@pytest.mark.parametrize("name", BY_GDCM)
def test_lossless_syntaxes_are_exact(tmp_path, series, name, bits, signed):
    values = write_bits(tmp_path, series, bits, signed)
    transcode(tmp_path, BY_GDCM[name])
    np.testing.assert_array_equal(array_of(read_only(tmp_path))[0], values)


@pytest.mark.parametrize(("name", "bits"), LOSSY)
def test_lossy_syntaxes_are_near_and_say_so(tmp_path, series, name, bits):
    values = write_bits(tmp_path, series, bits, 0, LossyImageCompression="01")
    transcode(tmp_path, LOSSY[name, bits])
    (study,) = discover(tmp_path)
    found = array_of(read_series(study, study.series[0]))[0]
    apart = np.abs(found - values.astype(float))
    # GDCM's encoder, not its decoder, wraps a value beside the two extremes.
    assert np.quantile(apart, 0.998) < 0.06 * 2**bits
    assert apart.mean() < 0.01 * 2**bits
    assert study.series[0].headers["LossyImageCompression"] == "01"


def test_what_a_decoder_fills_up_is_refused_and_it_says_nothing_itself(tmp_path, series, capfd):
    write_bits(tmp_path, series, 12, 0)
    transcode(tmp_path, BY_GDCM["jpeg lossless"])
    capfd.readouterr()  # what the encoder said
    read_only(tmp_path)
    path = min(tmp_path.iterdir())
    dataset = pydicom.dcmread(path)
    (frame,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    end = frame.rindex(b"\xff\xd9")
    cut = frame[: end - 40] + b"\xff\xd9"  # the stream ends in order, too early
    dataset.PixelData = pydicom.encaps.encapsulate([cut])
    dataset.save_as(path)
    with pytest.raises(SeriesRefused, match="the decoder says: Corrupt JPEG data: premature end"):
        read_only(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_decoders_that_are_at_odds_with_each_other_are_not_heard(tmp_path, series, capfd):
    write_bits(tmp_path, series, 12, 0, LossyImageCompression="01")
    transcode(tmp_path, LOSSY["jpeg extended", 12])  # GDCM tries 8 bits first
    capfd.readouterr()
    read_only(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_several_transfer_syntaxes_are_refused(tmp_path, series):
    series(tmp_path)
    path = min(tmp_path.iterdir())
    content = path.read_bytes()
    syntax = b"1.2.840.10008.1.2.1"
    path.write_bytes(content.replace(syntax, syntax.replace(b"8.1", b"8\\1", 1), 1))
    with pytest.raises(SeriesRefused, match=r"\(0002,0010\): expected one, got several"):
        read_only(tmp_path)


def test_values_of_compressed_ct_are_rescaled(tmp_path, series):
    values = write_bits(tmp_path, series, 12, 0, modality="CT")
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(array_of(read_only(tmp_path))[0], values.astype(float) - 1024)


def with_overlay_bits(dataset, k):
    """Twelve bits of values, an overlay in bit 15, as old scanners wrote graphics."""
    values = np.frombuffer(dataset.PixelData, "<u2") & 0x0FFF
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PixelData = (values | np.uint16(0x8000)).tobytes()
    dataset.add_new((0x6000, 0x0100), "US", 16)
    dataset.add_new((0x6000, 0x0102), "US", 15)


def test_an_overlay_in_the_unused_bits_is_no_part_of_the_values(tmp_path, series):
    stored = series(tmp_path, edit=with_overlay_bits)
    np.testing.assert_array_equal(array_of(read_only(tmp_path))[0], stored & 0x0FFF)


def test_values_that_break_their_bits_are_refused(tmp_path, series):
    def edit(dataset, k):
        dataset.BitsStored, dataset.HighBit = 10, 9

    series(tmp_path, edit=edit)
    (study,) = discover(tmp_path)
    with pytest.raises(Exception, match=r"ambiguous_units: BitsStored \(0028,0101\)"):
        read_series(study, study.series[0])


@pytest.mark.parametrize("signed", [0, 1])
def test_values_in_the_high_bits_are_shifted_down(tmp_path, series, signed):
    values = smooth(5, 12, signed)[:4, :6]

    def edit(dataset, k):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 15, signed
        dataset.PixelData = np.ascontiguousarray((values[:, :, k] << 4).T).tobytes()

    series(tmp_path, edit=edit)
    np.testing.assert_array_equal(array_of(read_only(tmp_path))[0], values)


def test_padding_stays_and_is_named_in_the_volumes_units(tmp_path, series):
    def edit(dataset, k):
        values = np.frombuffer(dataset.PixelData, "<u2").astype("<i2")
        values[:3] = -2000
        dataset.PixelRepresentation = 1
        dataset.PixelData = values.tobytes()
        dataset.add_new((0x0028, 0x0120), "SS", -2000)

    series(tmp_path, modality="CT", edit=edit)
    (study,) = discover(tmp_path)
    reading = read_with_facts(study, study.series[0])
    assert reading.facts["PixelPaddingValue"] == -3024
    assert float(array_of(reading.volume).min()) == -3024


def test_a_modality_lut_gives_the_values(tmp_path, series):
    def edit(dataset, k):
        del dataset.RescaleSlope, dataset.RescaleIntercept
        table = Dataset()
        table.LUTDescriptor = [4096, 0, 16]
        table.ModalityLUTType = "HU"
        table.LUTData = ((np.arange(4096) * 3) % 65536).astype("<u2").tobytes()
        table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
        dataset.ModalityLUTSequence = [table]

    stored = series(tmp_path, modality="CT", edit=edit)
    (study,) = discover(tmp_path)
    if study.series[0].status == "accepted":
        found = array_of(read_series(study, study.series[0]))[0]
        np.testing.assert_array_equal(found, stored.astype(float) * 3)
    else:
        assert study.series[0].reason == "ambiguous_units"


# Multi-frame objects

ENHANCED = {
    "CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "PT": "1.2.840.10008.5.1.4.1.1.130",
}
ORIGIN, STEP = np.array((-30.0, 20.0, 5.0)), 2.5
TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])


def enhanced(modality: str, frames: list[dict]) -> Dataset:
    """An enhanced object; each frame has its place k, its values, and macros of its own."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ENHANCED[modality]
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.FrameOfReferenceUID = "1.2.3.5"
    dataset.Modality, dataset.PatientID = modality, "somebody"
    dataset.Manufacturer = "Canon Medical Systems"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.NumberOfFrames = len(frames)
    dataset.Rows, dataset.Columns = frames[0]["values"].shape[::-1]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    shared = Dataset()
    shared.PixelMeasuresSequence = [item(PixelSpacing=[0.9, 1.1], SliceThickness=STEP)]
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=TURN[:, :2].T.ravel().tolist())]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [functional_groups(frame) for frame in frames]
    dataset.PixelData = b"".join(np.ascontiguousarray(f["values"].T).tobytes() for f in frames)
    return dataset


def item(**values) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def functional_groups(frame: dict) -> Dataset:
    groups = Dataset()
    place = (ORIGIN + TURN[:, 2] * STEP * frame["k"]).tolist()
    groups.PlanePositionSequence = [item(ImagePositionPatient=place)]
    content = {"StackID": "1", "InStackPositionNumber": frame["k"] + 1}
    groups.FrameContentSequence = [item(**content, **frame.get("content", {}))]
    slope, intercept = frame.get("rescale", (1, 0))
    groups.PixelValueTransformationSequence = [
        item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType=frame.get("type", "US"))
    ]
    for keyword, values in frame.get("macros", {}).items():
        setattr(groups, keyword, [item(**values)])
    return groups


def save(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def phantom(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 4000, shape).astype(np.uint16)


def expected_affine() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = TURN * (1.1, 0.9, STEP)
    affine[:3, 3] = ORIGIN
    return flip_lps_ras(affine)


def test_an_enhanced_ct_with_frames_in_any_order_and_its_own_slopes(tmp_path):
    values = phantom(5, 6, 4)
    frames = [
        {"k": k, "values": values[..., k], "rescale": (1 + k, -1000 - k), "type": "HU"}
        for k in (2, 0, 3, 1)
    ]
    save(enhanced("CT", frames), tmp_path / "a.dcm")
    volume = read_only(tmp_path)
    k = np.arange(4)
    np.testing.assert_allclose(array_of(volume)[0], values * (1.0 + k) - 1000 - k, rtol=1e-6)
    np.testing.assert_allclose(affine_of(volume), expected_affine(), atol=1e-4)
    assert volume.meta["units"] == "HU"


def test_an_enhanced_mr_is_split_by_component_and_echo(tmp_path):
    values = phantom(4, 5, 6, 3)  # four volumes of three slices
    kinds = [("MAGNITUDE", 4.6), ("MAGNITUDE", 9.2), ("PHASE", 4.6), ("PHASE", 9.2)]
    frames = [
        {
            "k": k,
            "values": values[v, ..., k],
            "macros": {
                "MREchoSequence": {"EffectiveEchoTime": echo},
                "MRImageFrameTypeSequence": {
                    "FrameType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
                    "ComplexImageComponent": component,
                },
            },
        }
        for k in (1, 2, 0)
        for v, (component, echo) in enumerate(kinds)
    ]
    save(enhanced("MR", frames), tmp_path / "a.dcm")
    (study,) = discover(tmp_path)
    assert [s.status for s in study.series] == ["split"] * 4
    found = {
        (s.entities["part"], s.entities["echo"]): array_of(read_series(study, s))[0]
        for s in study.series
    }
    for v, key in enumerate((("mag", "1"), ("mag", "2"), ("phase", "1"), ("phase", "2"))):
        np.testing.assert_array_equal(found[key], values[v])


def test_an_enhanced_mr_in_time_keeps_its_moments(tmp_path):
    values = phantom(3, 5, 6, 4)
    frames = [
        {
            "k": k,
            "values": values[t, ..., k],
            "content": {
                "TemporalPositionIndex": t + 1,
                "FrameAcquisitionDateTime": f"2020010112000{2 * t}.5",
            },
        }
        for t in (2, 0, 1)
        for k in (3, 1, 0, 2)
    ]
    save(enhanced("MR", frames), tmp_path / "a.dcm")
    (study,) = discover(tmp_path)
    assert study.series[0].reason == "time_series"
    reading = read_with_facts(study, study.series[0])
    np.testing.assert_array_equal(array_of(reading.volume), values)
    assert reading.facts["VolumeTiming"] == [0.0, 2.0, 4.0]


def test_the_standards_macros_count_before_private_copies(tmp_path):
    values = phantom(5, 6, 4)
    whole = enhanced("CT", [{"k": k, "values": values[..., k], "type": "HU"} for k in range(4)])
    for groups in whole.PerFrameFunctionalGroupsSequence:
        copy = item(
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[3, 3], RescaleSlope=7,
            RescaleIntercept=1, ImagePositionPatient=[0, 0, 0],
        )  # fmt: skip
        block = groups.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
        block.add_new(0x0F, "SQ", [copy])
    save(whole, tmp_path / "a.dcm")
    volume = read_only(tmp_path)
    np.testing.assert_array_equal(array_of(volume)[0], values)
    np.testing.assert_allclose(affine_of(volume), expected_affine(), atol=1e-4)


def test_an_enhanced_pet_without_units_is_refused_and_one_with_them_is_read(tmp_path):
    values = phantom(5, 6, 4)
    frames = [{"k": k, "values": values[..., k], "rescale": (0.5 + k, 0)} for k in range(4)]
    bare = enhanced("PT", frames)
    save(bare, tmp_path / "a" / "a.dcm")
    (study,) = discover(tmp_path / "a")
    assert study.series[0].reason == "ambiguous_units"
    bare.Units, bare.DecayCorrection = "BQML", "START"
    save(bare, tmp_path / "b" / "a.dcm")
    volume = read_only(tmp_path / "b")
    np.testing.assert_allclose(array_of(volume)[0], values * (0.5 + np.arange(4)), rtol=1e-6)
    assert volume.meta["units"] == "Bq/mL"


def mapping(
    slope: float, unit: str = "Bq/ml", ends: tuple[int, int] = (0, 65535), scheme: str = "UCUM"
) -> Dataset:
    """An item of a Real World Value Mapping Sequence (PS3.3 table C.7.6.16-12b)."""
    made = item(
        RealWorldValueSlope=slope, RealWorldValueIntercept=0.0, LUTLabel="scaled",
        LUTExplanation="scaled", MeasurementUnitsCodeSequence=[
            item(CodeValue=unit, CodingSchemeDesignator=scheme, CodeMeaning="unit")
        ],
    )  # fmt: skip
    made.add_new("RealWorldValueFirstValueMapped", "US", ends[0])
    made.add_new("RealWorldValueLastValueMapped", "US", ends[1])
    return made


def enhanced_pet(values: np.ndarray, mappings) -> Dataset:
    """An enhanced PET, its slopes in the mappings; RescaleSlope leads to nothing of known kind."""
    whole = enhanced("PT", [{"k": k, "values": values[..., k]} for k in (2, 0, 3, 1)])
    for groups, k in zip(whole.PerFrameFunctionalGroupsSequence, (2, 0, 3, 1), strict=True):
        groups.RealWorldValueMappingSequence = mappings(k)
    return whole


def with_dose(whole: Dataset) -> Dataset:
    """An hour after 350 MBq of fluorine-18."""
    whole.DecayCorrected = whole.AttenuationCorrected = "YES"
    whole.DecayCorrectionDateTime = "20240510111500"
    whole.PatientWeight = 70
    whole.RadiopharmaceuticalInformationSequence = [
        item(
            RadiopharmaceuticalAgentNumber=1,
            RadiopharmaceuticalStartDateTime="20240510101500",
            RadionuclideTotalDose=350,
            RadionuclideHalfLife=6586.2,
        )
    ]
    return whole


SUV_OF_ONE_BQ_ML = 70_000 / (350e6 * 0.5 ** (3600 / 6586.2))


def test_an_enhanced_pet_is_in_what_its_real_world_mapping_says(tmp_path):
    values = phantom(5, 6, 4)
    save(enhanced_pet(values, lambda k: [mapping(0.5 + k)]), tmp_path / "a.dcm")
    volume = read_only(tmp_path)
    np.testing.assert_allclose(array_of(volume)[0], values * (0.5 + np.arange(4)), rtol=1e-6)
    np.testing.assert_allclose(affine_of(volume), expected_affine(), atol=1e-4)
    assert volume.meta["units"] == "Bq/mL"


def test_a_mapping_that_all_frames_share_holds_for_each(tmp_path):
    values = phantom(5, 6, 4)
    whole = enhanced("PT", [{"k": k, "values": values[..., k]} for k in range(4)])
    whole.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence = [mapping(2.5)]
    save(whole, tmp_path / "a.dcm")
    np.testing.assert_allclose(array_of(read_only(tmp_path))[0], values * 2.5, rtol=1e-6)


@pytest.mark.parametrize("unit", ["Bq/ml", "BQ/ML"])
def test_becquerel_counts_before_uptake_and_suv_follows_from_the_dose(tmp_path, unit):
    values = phantom(5, 6, 4)
    both = lambda k: [mapping(7.0, "g/ml{SUVlbm}"), mapping(0.5, unit)]  # noqa: E731
    save(with_dose(enhanced_pet(values, both)), tmp_path / "a.dcm")
    (study,) = discover(tmp_path, options=IngestOptions(suv=True))
    volume = read_series(study, study.series[0])
    np.testing.assert_allclose(array_of(volume)[0], values * 0.5 * SUV_OF_ONE_BQ_ML, rtol=1e-5)
    assert volume.meta["units"] == "SUV"
    assert study.series[0].headers["UnitsSource"] == "DecayCorrectionDateTime (0018,9701)"
    assert study.series[0].headers["SecondsFromInjection"] == 3600


def test_body_weight_uptake_alone_is_suv(tmp_path):
    values = phantom(5, 6, 4)
    save(enhanced_pet(values, lambda k: [mapping(0.01, "g/ml{SUVbw}")]), tmp_path / "a.dcm")
    volume = read_only(tmp_path)
    np.testing.assert_allclose(array_of(volume)[0], values * 0.01, rtol=1e-6)
    assert volume.meta["units"] == "SUV"


@pytest.mark.parametrize(
    ("mappings", "said"),
    [
        (lambda k: [mapping(1.0, "{counts}")], r"\{counts\}"),
        (lambda k: [mapping(1.0, "g/ml{SUVlbm}")], r"g/ml\{SUVlbm\}"),
        (lambda k: [mapping(1.0, "g/ml")], "got g/ml"),
        (lambda k: [mapping(1.0, scheme="99HOME")], "Bq/ml of another scheme"),
        (lambda k: [mapping(1.0), mapping(2.0)], "2 mappings to BQML"),
        (lambda k: [mapping(0.0)], r"without RealWorldValueSlope \(0040,9225\)"),
        (lambda k: [mapping(1.0)] if k else [mapping(1.0, "g/ml{SUVbw}")], "one value throughout"),
        (lambda k: [mapping(1.0)] if k else [], "one value throughout"),
    ],
)
def test_an_enhanced_pet_of_uncertain_units_is_refused_with_what_it_says(tmp_path, mappings, said):
    save(enhanced_pet(phantom(5, 6, 4), mappings), tmp_path / "a.dcm")
    (study,) = discover(tmp_path)
    assert study.series[0].reason == "ambiguous_units"
    assert re.search(said, study.series[0].detail)


def test_values_beyond_the_mapping_are_refused(tmp_path):
    values = phantom(5, 6, 4)
    top = int(values.max())
    save(enhanced_pet(values, lambda k: [mapping(1.0, ends=(0, top))]), tmp_path / "a" / "a.dcm")
    assert read_only(tmp_path / "a").max() == top
    save(
        enhanced_pet(values, lambda k: [mapping(1.0, ends=(0, top - 1))]), tmp_path / "b" / "b.dcm"
    )
    with pytest.raises(SeriesRefused, match=r"ambiguous_units: RealWorldValue.* 0 to \d+$"):
        read_only(tmp_path / "b")


def test_units_and_a_mapping_must_lead_to_the_same_values(tmp_path):
    values = phantom(5, 6, 4)
    for slope, name in ((1.0, "same"), (2.0, "other")):
        whole = enhanced_pet(values, lambda k, s=slope: [mapping(s)])
        whole.Units, whole.DecayCorrection = "BQML", "START"
        save(whole, tmp_path / name / "a.dcm")
    np.testing.assert_array_equal(array_of(read_only(tmp_path / "same"))[0], values)
    (study,) = discover(tmp_path / "other")
    assert "two scales to BQML" in study.series[0].detail


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("PatientWeight", None, "PatientWeight"),
        ("DecayCorrectionDateTime", None, "DecayCorrectionDateTime"),
        ("AttenuationCorrected", "NO", "ATTN and DECY, got DECY"),
        ("RadiopharmaceuticalInformationSequence", None, "RadiopharmaceuticalInformationSequence"),
        ("DecayCorrectionDateTime", "20240510101400", "injection before the scan"),
    ],
)
def test_an_enhanced_pet_without_what_suv_takes_is_refused(tmp_path, keyword, value, said):
    whole = with_dose(enhanced_pet(phantom(5, 6, 4), lambda k: [mapping(1.0)]))
    delattr(whole, keyword)
    if value is not None:
        setattr(whole, keyword, value)
    save(whole, tmp_path / "a.dcm")
    (study,) = discover(tmp_path, options=IngestOptions(suv=True))
    assert study.series[0].reason == "suv_unknown"
    assert said in study.series[0].detail


def test_a_dose_in_becquerel_where_the_standard_has_mega_is_refused(tmp_path):
    whole = with_dose(enhanced_pet(phantom(5, 6, 4), lambda k: [mapping(1.0)]))
    whole.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = 350e6
    save(whole, tmp_path / "a.dcm")
    (study,) = discover(tmp_path, options=IngestOptions(suv=True))
    assert "RadionuclideTotalDose" in study.series[0].detail


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_legacy_converted_objects_equal_their_classic_files(tmp_path, series, modality):
    tags = {"StudyID": "1", "Manufacturer": "Agfa", "StudyDate": "", "StudyTime": ""}
    tags |= {
        "PatientSex": "",
        "ReferringPhysicianName": "",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }
    if modality == "PT":
        tags |= {
            "RescaleSlope": 2,
            "RescaleIntercept": 0,
            "Units": "BQML",
            "DecayCorrection": "START",
        }
    series(tmp_path / "classic", modality=modality, direction=TURN, **tags)
    files = [pydicom.dcmread(p) for p in sorted((tmp_path / "classic").iterdir())]
    makers = {
        "CT": highdicom.legacy.LegacyConvertedEnhancedCTImage,
        "MR": highdicom.legacy.LegacyConvertedEnhancedMRImage,
        "PT": highdicom.legacy.LegacyConvertedEnhancedPETImage,
    }
    whole = makers[modality](files, generate_uid(), 2, generate_uid(), 1)
    (tmp_path / "legacy").mkdir()
    whole.save_as(tmp_path / "legacy" / "a.dcm")
    classic, legacy = read_only(tmp_path / "classic"), read_only(tmp_path / "legacy")
    np.testing.assert_array_equal(array_of(legacy), array_of(classic))
    np.testing.assert_allclose(affine_of(legacy), affine_of(classic), atol=1e-5)
    assert legacy.meta["units"] == classic.meta["units"]


def test_ge_says_magnitude_phase_real_and_imaginary_in_a_tag_of_its_own(tmp_path, series):
    def edit_for(kind):
        def edit(dataset, k):
            dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", kind)

        return edit

    stored = [
        series(
            tmp_path, series_uid="1.2.9", seed=kind, names=f"{kind}_{{}}".format,
            edit=edit_for(kind), Manufacturer="GE MEDICAL SYSTEMS",
            ImageType=["ORIGINAL", "PRIMARY", "OTHER"],
        )
        for kind in range(4)
    ]  # fmt: skip
    (study,) = discover(tmp_path)
    found = {s.entities["part"]: array_of(read_series(study, s))[0] for s in study.series}
    for name, values in zip(("mag", "phase", "real", "imag"), stored, strict=True):
        np.testing.assert_array_equal(found[name], values)


NO_VOLUMES = {
    "dose report": ("1.2.840.10008.5.1.4.1.1.88.67", "SR", "not_an_image"),
    "structured report": ("1.2.840.10008.5.1.4.1.1.88.33", "SR", "not_an_image"),
    "presentation state": ("1.2.840.10008.5.1.4.1.1.11.1", "PR", "not_an_image"),
    "key objects": ("1.2.840.10008.5.1.4.1.1.88.59", "KO", "not_an_image"),
    "raw data": ("1.2.840.10008.5.1.4.1.1.66", "MR", "not_an_image"),
    "spectroscopy": ("1.2.840.10008.5.1.4.1.1.4.2", "MR", "not_an_image"),
    "screenshot": ("1.2.840.10008.5.1.4.1.1.7", "CT", "secondary_capture"),
    "multi-frame screenshot": ("1.2.840.10008.5.1.4.1.1.7.2", "CT", "secondary_capture"),
    "angiography": ("1.2.840.10008.5.1.4.1.1.12.1", "XA", "unsupported_modality"),
}


@pytest.mark.parametrize("name", NO_VOLUMES)
def test_what_is_no_volume_is_called_by_its_name(tmp_path, series, name):
    sop_class, modality, code = NO_VOLUMES[name]

    def edit(dataset, k):
        dataset.SOPClassUID, dataset.Modality = sop_class, modality
        if code == "not_an_image":
            del dataset.PixelData

    series(tmp_path, edit=edit)
    (study,) = discover(tmp_path)
    assert [(s.status, s.reason) for s in study.series] == [("rejected", code)]


@pytest.mark.parametrize(
    "image_type",
    [
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], "localizer"),
        (["DERIVED", "PRIMARY", "SCOUT"], "localizer"),
        (["ORIGINAL", "PRIMARY", "TOPOGRAM"], "localizer"),
        (["DERIVED", "SECONDARY", "DOSE_INFO"], "secondary_capture"),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], "secondary_capture"),
    ],
)
def test_words_of_image_type_tell_planning_images_and_screens(tmp_path, series, image_type):
    words, code = image_type
    series(tmp_path, modality="CT", ImageType=words)
    (study,) = discover(tmp_path)
    assert [(s.status, s.reason) for s in study.series] == [("rejected", code)]
