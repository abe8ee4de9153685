"""The command line: its commands, exit statuses, and that no traceback reaches the terminal."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from radloom import __version__, cli
from radloom.errors import SeriesRefused
from radloom.models.bundles import find_bundle
from radloom.pipelines import denoise as denoise_room
from radloom.pipelines.single import write_image
from radloom.pipelines.stage import Check
from radloom.shapes import make_label, make_volume

COMMANDS = [
    "demo", "inspect", "convert", "run", "denoise", "register", "translate", "segment",
    "send", "listen",
    "deidentify", "deface", "status", "report", "explain", "verify", "dataset", "train",
]  # fmt: skip

AFFINE = np.array([[0.0, -1.5, 0, 12], [2, 0, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1]])


def radloom(*arguments: object) -> tuple[int, str]:
    """Exit status and all that was printed."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "radloom", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def image(path: Path, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(100, 5, (12, 14, 9)).astype(np.float32)
    values[3:9, 4:10, 2:7] += 200
    nib.save(nib.Nifti1Image(values, AFFINE), path)
    return path


def test_help_lists_the_commands_and_imports_nothing_heavy():
    code, text = radloom("--help")
    assert code == 0
    listed = re.findall(r"^  (\w+) ", text.split("Commands:")[1], re.MULTILINE)
    assert listed == COMMANDS
    probe = (
        "import sys, radloom.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'numpy', 'dask', 'itk', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 10  # a second where nothing else runs


def test_inspect_reads_headers_without_torch_and_monai(tmp_path, demo_folder):
    image(tmp_path / "t1.nii.gz")
    shutil.copytree(demo_folder, tmp_path / "study")
    probe = (
        "import sys, radloom.cli as cli\n"
        f"try: cli.main(['inspect', {str(tmp_path)!r}, '--json'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'dask', 'distributed', 'itk'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {row["modality"] for row in json.loads(done.stdout)} == {"MR", "CT"}


def test_version():
    assert radloom("--version") == (0, f"radloom {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "absent"), "expected a folder, got <absent>"),
        (("run", "absent", "out"), "expected a folder, got <absent>"),
        (("convert", "absent", "out"), "expected a folder, got <absent>"),
        (("denoise", "absent.nii", "out.nii"), "expected a file or folder, got <absent.nii>"),
        (("translate", "absent.nii", "out.nii"), "expected a file or folder"),
        (("segment", "absent.nii", "out.nii"), "expected a file or folder"),
        (("register", "a.nii", "b.nii", "out.nii"), "expected a file or folder, got <a.nii>"),
        (("status", "absent"), "expected a folder"),
        (("report", "absent"), "expected a folder"),
        (("run",), "STUDIES"),
        (("runn",), "runn"),
        (("denoise", "a.nii", "b.nii", "--method", "magic"), "nlb"),
    ],
)
def test_unusable_arguments_end_with_2_and_say_what_was_expected(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, text = radloom(*arguments)
    assert code == 2
    assert message in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


def test_a_process_ends_with_2_without_a_traceback(tmp_path):
    done = process("run", tmp_path / "absent", tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("radloom: expected a folder, got <")
    assert len(done.stderr.splitlines()) == 1


def test_an_ending_that_no_writer_knows(tmp_path):
    code, text = radloom("denoise", image(tmp_path / "a.nii"), tmp_path / "b.png")
    assert code == 2
    assert "expected OUT to end in .nii, .nii.gz, .nrrd, .mha, got <b.png>" in text
    code, text = radloom("denoise", tmp_path / "a.nii", tmp_path / "absent" / "b.nii")
    assert code == 2
    assert "expected a folder to write to" in text


def test_an_unexpected_error_is_one_line_and_a_log(tmp_path, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("for once")

    monkeypatch.setattr(denoise_room, "denoise", fail)
    code, text = radloom("denoise", image(tmp_path / "a.nii"), tmp_path / "b.nii")
    assert code == 1
    found = re.fullmatch(
        r"radloom: unexpected ZeroDivisionError; the details are in <(.+)>\n", text
    )
    assert found
    log = Path(found[1])
    assert "for once" in log.read_text()
    log.unlink()


def test_a_refused_series_ends_with_1(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"no image")
    code, text = radloom("denoise", tmp_path / "a.nii", tmp_path / "b.nii")
    assert code == 1
    assert "unreadable" in text or "truncated" in text
    assert "Traceback" not in text
    assert issubclass(SeriesRefused, ValueError)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_denoise_writes_the_format_that_the_name_says(tmp_path, ending):
    source, out = image(tmp_path / "a.nii.gz"), tmp_path / f"b{ending}"
    code, text = radloom("denoise", source, out, "--method", "tv")
    assert code == 0, text
    assert "noise level" in text
    before, after = sitk.ReadImage(str(source)), sitk.ReadImage(str(out))
    assert before.GetSize() == after.GetSize()
    np.testing.assert_allclose(before.GetOrigin(), after.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(before.GetSpacing(), after.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(before.GetDirection(), after.GetDirection(), atol=1e-6)
    noisy, clean = sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after)
    assert clean[:, :4].std() < noisy[:, :4].std()
    assert abs(float(clean.mean() - noisy.mean())) < 5


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_labels_keep_values_and_grid_in_every_format(tmp_path, ending):
    values = np.arange(4 * 5 * 6).reshape(4, 5, 6) * 5
    write_image(make_label(values, AFFINE), tmp_path / f"a{ending}")
    label = sitk.ReadImage(str(tmp_path / f"a{ending}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), values.T)
    point_lps = label.TransformContinuousIndexToPhysicalPoint((3.0, 2.0, 1.0))
    np.testing.assert_allclose(
        np.array(point_lps) * (-1, -1, 1), (AFFINE @ (3, 2, 1, 1))[:3], atol=1e-4
    )


def test_several_channels_do_not_fit_into_nrrd(tmp_path):
    volume = make_volume(np.ones((2, 3, 4, 5)), AFFINE, modality="MR", units="arbitrary")
    with pytest.raises(ValueError, match="expected one channel"):
        write_image(volume, tmp_path / "a.nrrd")


def test_translate_without_weights_writes_nothing(tmp_path):
    own = find_bundle("head_mr_to_ct_translation")
    model = shutil.copytree(own, tmp_path / own.name, ignore=shutil.ignore_patterns("models"))
    mr, ct = image(tmp_path / "mr.nii.gz"), tmp_path / "ct.nii.gz"
    code, text = radloom("translate", mr, ct, "--model", model, "--trust")
    assert code == 1
    assert "head_mr_to_ct_translation" in text
    assert not (tmp_path / "ct.nii.gz").exists()


def test_segment_says_what_is_missing_or_not_trusted(tmp_path):
    mr = image(tmp_path / "mr.nii.gz")
    code, text = radloom("segment", mr, tmp_path / "l.nii.gz", "--model", tmp_path / "absent")
    assert code == 2
    (tmp_path / "model").mkdir()
    code, text = radloom("segment", mr, tmp_path / "l.nii.gz", "--model", tmp_path / "model")
    assert code == 2
    assert "expected" in text
    code, text = radloom("segment", mr, tmp_path / "l.nii.gz", "--device", "gpu")
    assert code == 2
    assert "expected a device" in text


@pytest.mark.slow
def test_register_carries_labels_and_saves_the_transform(tmp_path, demo_truth):
    fixed, moving = demo_truth.volumes["t1"], demo_truth.volumes["ct"]
    for name, volume in (("fixed", fixed), ("moving", moving)):
        write_image(volume, tmp_path / f"{name}.nii.gz")
    bone = make_label((np.asarray(moving[0]) > 300).astype(np.uint8), np.asarray(moving.affine))
    write_image(bone, tmp_path / "bone.nii.gz")
    points = "# CoordinateSystem = LPS\nname,x,y,z\nleft,30,-10,20\n"
    (tmp_path / "points.csv").write_text(points)
    code, text = radloom(
        *("register", tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"),
        *(tmp_path / "warped.nrrd", "--transform", "rigid"),
        *("--label", tmp_path / "bone.nii.gz", tmp_path / "bone_on_fixed.nii.gz"),
        *("--points", tmp_path / "points.csv", tmp_path / "points_on_fixed.csv"),
        *("--save-transform", tmp_path / "x.tfm"),
    )
    assert code == 0, text
    grid = nib.load(tmp_path / "fixed.nii.gz")
    carried = nib.load(tmp_path / "bone_on_fixed.nii.gz")
    assert carried.shape == grid.shape
    np.testing.assert_allclose(carried.affine, grid.affine)
    assert set(np.unique(np.asarray(carried.dataobj))) == {0, 1}
    moving_from_fixed = sitk.ReadTransform(str(tmp_path / "x.tfm"))
    name, *point = (tmp_path / "points_on_fixed.csv").read_text().splitlines()[-1].split(",")
    assert name == "left"
    back = moving_from_fixed.TransformPoint([float(number) for number in point])
    np.testing.assert_allclose(back, (30, -10, 20), atol=1e-4)


@pytest.mark.parametrize("option", ["--label", "--points"])
def test_what_is_carried_needs_a_place_to_go(option):
    code, text = radloom("register", "a", "b", "c.nii", option, "d")
    assert code == 2
    assert f"expected {option} IN OUT" in text


def test_a_flagged_registration_is_said(tmp_path, monkeypatch):
    bad = Check("similarity_after", 1.01, low=1.03, meaning="Low: look.")
    monkeypatch.setattr("radloom.pipelines.single.register_files", lambda *a, **k: (None, (bad,)))
    scan = image(tmp_path / "scan.nii.gz")
    code, text = radloom("register", scan, scan, tmp_path / "out.nii.gz")
    assert code == 0
    assert "look: similarity_after is 1.01. Low: look." in text


def test_points_keep_their_kind_of_file(tmp_path):
    scan = image(tmp_path / "scan.nii.gz")
    (tmp_path / "p.csv").write_text("x,y,z\n")
    pair = ("--points", tmp_path / "p.csv", tmp_path / "p.fcsv")
    code, text = radloom("register", scan, scan, tmp_path / "out.nii.gz", *pair)
    assert code == 2
    assert "expected OUT to end in .csv as IN does, got <p.fcsv>" in text


def test_inspect_prints_the_fields_of_the_design(demo_folder):
    done = process("inspect", demo_folder, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["role"] for row in rows} >= {"t1", "t2", "flair", "ct"}
    fields = "study_uid series_uid modality description status reason role shape spacing n_files"
    assert all(list(row) == [*fields.split(), "rule", "detail"] for row in rows)
    assert any(row["status"] == "rejected" and row["reason"] == "localizer" for row in rows)
    code, text = radloom("inspect", demo_folder)
    assert code == 0
    assert "localizer" in text


def test_convert_hands_what_is_asked_to_the_ingest_stage(tmp_path, monkeypatch):
    from radloom.pipelines import runner

    asked = []

    def only_look(studies, out, workflow, **_):
        asked.append(workflow.stages[0].options)
        return runner.RunSummary((), out, None, 0.0)

    monkeypatch.setattr(runner, "run", only_look)
    (tmp_path / "in").mkdir()
    names = ("--suv", "--correct-tilt", "--resample-spacing", "--philips-float")
    for options in ((), *((name,) for name in names)):
        code, text = radloom("convert", tmp_path / "in", tmp_path / "out", *options)
        assert code == 0, text
    found = [(o.suv, o.repairs.tilt, o.repairs.spacing, o.philips_floating_point) for o in asked]
    assert found == [tuple(name == asked for name in names) for asked in (None, *names)]


def test_inspect_remembers_headers_in_the_file_that_is_named(tmp_path, demo_folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index = tmp_path / "headers.gz"
    first = radloom("inspect", demo_folder, "--json", "--index", index)
    assert first[0] == 0
    assert index.is_file()
    assert radloom("inspect", demo_folder, "--json", "--index", index) == first
    assert radloom("inspect", demo_folder, "--json", "--no-index") == first
    assert not (tmp_path / "cache").exists()
    assert radloom("inspect", demo_folder, "--json") == first
    if sys.platform == "linux":
        assert len(list((tmp_path / "cache" / "radloom" / "headers").iterdir())) == 1
    code, text = radloom("inspect", demo_folder, "--index", tmp_path / "absent" / "headers.gz")
    assert code == 2
    assert "--index" in text


@pytest.mark.slow
def test_convert_status_and_report_on_a_real_folder(tmp_path, demo_folder):
    done = process("convert", demo_folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 studies done" in done.stdout
    assert done.stderr == ""
    rows = (tmp_path / "out" / "ingest.tsv").read_text().splitlines()
    assert rows[0].split("\t") == ["series_uid", "path", "status", "reason"]
    written = [row.split("\t")[1] for row in rows[1:] if "\taccepted\t" in row]
    assert len(written) == 4
    assert all((tmp_path / "out" / path).is_file() for path in written)
    code, text = radloom("status", tmp_path / "out")
    assert code == 0
    assert "done" in text
    code, text = radloom("report", tmp_path / "out")
    assert code == 0
    assert (tmp_path / "out" / "report.html").is_file()
