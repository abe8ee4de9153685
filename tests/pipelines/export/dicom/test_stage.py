"""The stage as a run meets it: files, receipts, resume, refusals, de-identification."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from radloom.errors import ConfigError, StageFailed
from radloom.pipelines.deidentify import Pseudonyms, deidentify_records
from radloom.pipelines.export.dicom import derived
from radloom.pipelines.export.dicom.stage import DEFAULT_OBJECTS, OBJECTS, ExportStage
from radloom.pipelines.ingest import IngestStage, discover
from radloom.pipelines.stage import Check, Context, StageResult, resume_stage, run_stage
from radloom.pipelines.study import Output, Study, StudyRecord
from radloom.shapes import affine_of, like, make_label, spatial_shape
from radloom.transforms.spatial import Transform, resample


@dataclass(frozen=True)
class Stages:
    """Stands for denoise, register, segment and report together."""

    factor: float = 0.987

    name = "work"

    def fingerprint(self) -> str:
        return str(self.factor)

    def input_hashes(self, study: Study) -> dict[str, str]:
        return {}

    def estimate_memory(self, study: Study) -> int:
        return 0

    def run(self, study: Study, context: Context) -> StageResult:
        t1 = study.latest("t1").volume
        grid = affine_of(t1), spatial_shape(t1)
        labels = np.zeros(grid[1], dtype=np.uint8)
        labels[4:15, 5:18, 1:6] = 10
        labels[8:12, 9:14, 2:5] = 17
        names = {10: "Left-Thalamus", 17: "Left-Hippocampus"}
        picture = BytesIO()
        Image.fromarray(np.full((30, 40, 3), 99, np.uint8)).save(picture, "PNG")
        move = np.eye(4)
        move[:3, 3] = 1, 2, -1
        t2 = resample(study.latest("t2").volume, Transform(move), *grid)
        rows = tuple(
            {"label": n, "structure": name, "volume_ml": 1.5, "n_voxels": 9}
            for n, name in names.items()
        )
        outputs = (
            Output("volume", "t1", "denoised", like(t1, t1 * self.factor)),
            Output("transform", "t2", "moving_from_fixed", Transform(move), space="t1"),
            Output("volume", "t2", "registered", t2, space="t1"),
            Output("label", "t1", "model", make_label(labels, grid[0]), label_names=names),
            Output("table", "t1", "volumes", rows),
            Output("report", "t1", "segment", picture.getvalue(), sidecar={"stage": "segment"}),
        )
        return StageResult(outputs, (Check("t1_noise", 3.0, high=9.0),))


def _record(folder: Path, names: Pseudonyms | None = None) -> StudyRecord:
    (record,) = discover(folder)
    if names is not None:
        (record,) = deidentify_records([record], names)
    pairs = zip(record.series, ("t1", "t2"), strict=True)
    return replace(
        record, series=tuple(replace(s, role=role, status="accepted") for s, role in pairs)
    )


def _run(
    record: StudyRecord, out: Path, context: Context, *stages: Any
) -> tuple[Study, list[Path]]:
    study = Study(record)
    for stage in (IngestStage(), *(stages or (Stages(), ExportStage()))):
        study, _ = run_stage(stage, study, out, context)
    made = [out / path for o in study.outputs.get("export", ()) for path in o.files]
    return study, made


@pytest.fixture
def folder(write_scans: Callable[..., Path], scan_type: Any) -> Path:
    axial = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    t2 = scan_type("t2", orientation=axial, shape=(18, 16, 9), position=(-20.0, -4.0, -28.0))
    return write_scans(scan_type("t1"), t2)


def test_every_kind_is_written_valid_and_in_place(
    folder: Path, tmp_path: Path, context: Context, validate: Callable[[bytes], list[str]]
) -> None:
    record = _record(folder)
    study, made = _run(record, tmp_path / "out", context)
    read = {path: pydicom.dcmread(path) for path in made}
    kinds = {path.parent.name: str(ds.SOPClassUID.name) for path, ds in read.items()}
    assert kinds["desc-denoised_T1w"] == "MR Image Storage"
    assert kinds["space-T1w_desc-registered_T2w"] == "MR Image Storage"
    assert kinds["from-T2w_to-T1w_reg"] == "Spatial Registration Storage"
    assert set(kinds.values()) == {
        "MR Image Storage",
        "Spatial Registration Storage",
        "Segmentation Storage",
        "RT Structure Set Storage",
        "Enhanced SR Storage",
        "Secondary Capture Image Storage",
        "Encapsulated PDF Storage",
    }
    series: dict[str, set[int]] = {}
    for path, ds in read.items():
        assert (
            path.parent.parent
            == tmp_path / "out" / f"sub-{record.subject}" / (f"ses-{record.session}") / "dicom"
        )
        assert (ds.PatientID, ds.StudyInstanceUID) == ("SECRET4711", "1.2.826.99")
        assert ds.SeriesDescription.endswith("(research)")
        assert ds.Manufacturer == "Radloom"
        assert ds.ContributingEquipmentSequence[-1].Manufacturer == "Radloom"
        assert "InstanceCreationDate" not in ds
        series.setdefault(str(ds.SeriesInstanceUID), set()).add(int(ds.SeriesNumber))
        assert validate(path.read_bytes()) == [], path.name
    assert all(len(numbers) == 1 for numbers in series.values())
    assert len({n for numbers in series.values() for n in numbers}) == len(series)
    assert len({str(ds.SOPInstanceUID) for ds in read.values()}) == len(made)
    assert not any(check.flagged for check in study.checks["export"])


def test_references_lead_to_instances_that_are_there(
    folder: Path, tmp_path: Path, context: Context
) -> None:
    _, made = _run(_record(folder), tmp_path / "out", context)
    written = {str(pydicom.dcmread(path).SOPInstanceUID) for path in made}
    # a structure set names the study itself as well (PS3.3 C.8.8.5, retired detached study)
    sources = {str(pydicom.dcmread(p).SOPInstanceUID) for p in folder.rglob("*.dcm")}

    def referenced(dataset: Any) -> set[str]:
        found = set()
        for element in dataset.iterall():
            if element.keyword == "ReferencedSOPInstanceUID":
                found.add(str(element.value))
        return found

    for path in made:
        named = referenced(pydicom.dcmread(path))
        assert named, path.name
        assert named <= {*written, *sources, "1.2.826.99"}, path.name


def test_same_run_same_bytes_and_another_result_other_uids(
    folder: Path, tmp_path: Path, context: Context
) -> None:
    record = _record(folder)
    _, first = _run(record, tmp_path / "a", context)
    _, again = _run(record, tmp_path / "b", context)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    study, _ = _run(record, tmp_path / "a", context)
    before = {stage: made for stage, made in study.outputs.items() if stage != "export"}
    given = replace(study, outputs=before)
    assert resume_stage(ExportStage(), given, tmp_path / "a") is not None
    _, other = _run(record, tmp_path / "c", context, Stages(0.9), ExportStage())

    def uids(paths: list[Path], folder_name: str) -> set[str]:
        return {
            str(pydicom.dcmread(p).SOPInstanceUID) for p in paths if p.parent.name == folder_name
        }

    assert uids(first, "desc-denoised_T1w").isdisjoint(uids(other, "desc-denoised_T1w"))
    assert uids(first, "from-T2w_to-T1w_reg") == uids(other, "from-T2w_to-T1w_reg")


def test_nothing_of_the_patient_leaks_from_a_deidentified_run(
    folder: Path, tmp_path: Path, context: Context
) -> None:
    names = Pseudonyms(bytes(range(32)))
    record = _record(folder, names)
    _, made = _run(record, tmp_path / "out", context)
    assert len(made) > 15
    secrets = (b"Mustermann", b"Maria", b"SECRET4711", b"19700102", b"ACC123456", b"Doctor",
               b"1.2.826.99", b"1.2.826.77", b"20200304")  # fmt: skip
    for path in tmp_path.joinpath("out").rglob("*"):
        if path.is_file() and not path.name.endswith(".gz"):
            content = path.read_bytes()
            assert not [s for s in secrets if s in content], path.name
    first = pydicom.dcmread(made[0])
    assert first.PatientID == record.subject
    assert first.PatientIdentityRemoved == "YES"
    assert first.SourceImageSequence[0].ReferencedSOPInstanceUID == names.uid("1.2.826.99.1.1")
    assert first.FrameOfReferenceUID == names.uid("1.2.826.77.1")


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "山田^太郎"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 144", "Люксембург^Роза"),
        ("ISO_IR 100", "Äneas^Rüdiger"),
    ],
)
def test_names_in_any_script_come_back(
    charset: Any,
    name: str,
    write_scans: Callable[..., Path],
    scan_type: Any,
    tmp_path: Path,
    context: Context,
    validate: Callable[[bytes], list[str]],
) -> None:
    headers = {"SpecificCharacterSet": charset, "PatientName": name}
    folder = write_scans(scan_type("t1", headers=headers), scan_type("t2", headers=headers))
    _, made = _run(_record(folder), tmp_path / "out", context)
    for path in {path.parent: path for path in made}.values():
        dataset = pydicom.dcmread(path)
        assert str(dataset.PatientName) == name, path.name
        assert validate(path.read_bytes()) == [], path.name


def test_a_failed_self_check_fails_the_study(
    folder: Path, tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = derived.slice_plane

    def wrong(source: Any, k: int) -> dict[str, Any]:
        plane = right(source, k)
        x, y, z = plane["ImagePositionPatient"]
        return {**plane, "ImagePositionPatient": [x, y, float(z) + 2]}

    monkeypatch.setattr(derived, "slice_plane", wrong)
    with pytest.raises(StageFailed, match=r"export: T1w denoised: a read gives one 2 mm away"):
        _run(_record(folder), tmp_path / "out", context)
    receipt = json.loads(next(tmp_path.glob("out/stages/*/export/stage.json")).read_text())
    assert receipt["status"] == "failed"
    assert not list(tmp_path.glob("out/sub-*/ses-*/dicom/**/*.dcm"))


def test_a_study_without_dicom_is_skipped_with_the_reason(
    folder: Path, tmp_path: Path, context: Context
) -> None:
    import nibabel as nib

    study, _ = _run(_record(folder), tmp_path / "out", context, Stages())
    files = tmp_path / "nifti" / "sub-1"
    files.mkdir(parents=True)
    for role in ("t1", "t2"):
        volume = study.latest(role).volume
        nib.save(nib.Nifti1Image(volume[0].numpy(), affine_of(volume)), files / f"{role}.nii.gz")
    record = _record(tmp_path / "nifti")
    _run(record, tmp_path / "out2", context)
    (path,) = tmp_path.glob("out2/stages/*/export/stage.json")
    receipt = json.loads(path.read_text())
    assert receipt["status"] == "skipped"
    assert receipt["reason"].startswith("no DICOM objects: ")
    assert "came from no DICOM" in receipt["reason"]


def test_parameters() -> None:
    assert set(DEFAULT_OBJECTS) <= set(OBJECTS)
    with pytest.raises(ConfigError, match="expected objects of derived"):
        ExportStage(("derive",))
    assert ExportStage(("derived",)).fingerprint() != ExportStage().fingerprint()


def test_none_and_some_objects(folder: Path, tmp_path: Path, context: Context) -> None:
    _, none = _run(_record(folder), tmp_path / "a", context, Stages(), ExportStage(()))
    assert none == []
    _, some = _run(_record(folder), tmp_path / "b", context, Stages(), ExportStage(("pictures",)))
    assert [path.parent.name for path in some] == ["capture"]


def test_another_run_takes_no_result_for_a_scan(
    folder: Path, tmp_path: Path, context: Context
) -> None:
    """Objects that a PACS gave back beside the source images get no role."""
    _, made = _run(_record(folder), tmp_path / "out", context)
    for number, path in enumerate(made):
        folder.joinpath("patient", f"back{number}.dcm").write_bytes(path.read_bytes())
    (record,) = discover(folder)
    ours = [s for s in record.series if s.description.endswith("(research)")]
    assert len(ours) >= 7
    assert [(s.description, s.role) for s in ours if s.role or s.runner_up_for] == []
