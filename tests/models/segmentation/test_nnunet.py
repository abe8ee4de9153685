"""Held against nnU-Net's own command line and its own readers, voxel for voxel."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sysconfig
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from radloom.errors import ConfigError, GridMismatch, InputError, NotTrusted, OutOfMemory
from radloom.geometry import spacing_of
from radloom.models.segmentation.axes import from_model, to_model
from radloom.models.segmentation.nnunet import NnunetOptions, find_nnunet, is_nnunet
from radloom.models.segmentation.postprocessing import Postprocessing, postprocess
from radloom.pipelines.export.zarr import ZarrFolder
from radloom.shapes import affine_of, array_of, like, make_volume
from radloom.transforms.nifti import write_nifti

CPU = torch.device("cpu")
READERS = ("SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient", "NibabelIOWithReorient")


def spoiled(folder: Path, into: Path, name: str, **changes) -> Path:
    """A copy of a results folder in which one JSON file says something else."""
    copy = Path(shutil.copytree(folder, into / folder.name))
    content = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps({**content, **changes}))
    return copy


def nnunet_says(
    folder: Path, volumes, work: Path, *, folds=(0, 1), mirroring=True, before: Path | None = None
) -> np.ndarray:
    """nnU-Net's own sequential prediction from files to a file, read with nibabel (I, J, K).

    `before` holds the labels of the first half of a cascade, as ``case.nii.gz``.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    work.mkdir()
    names = [str(work / f"case_{channel:04d}.nii.gz") for channel in range(len(volumes))]
    for volume, name in zip(volumes, names, strict=True):
        write_nifti(volume, Path(name))
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(use_mirroring=mirroring, device=CPU, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), folds)
        predictor.predict_from_files_sequential(
            [names],
            [str(work / "labels")],
            folder_with_segs_from_prev_stage=None if before is None else str(before),
        )
    return np.asarray(nib.load(work / "labels.nii.gz").dataobj)


@pytest.mark.slow
def test_labels_equal_those_of_the_command_line(
    nnunet_folder, nnunet_root, grid_volume, tmp_path
) -> None:
    volumes = {name: grid_volume(name) for name in ("ras", "lps", "oblique")}
    (tmp_path / "in").mkdir()
    for name, volume in volumes.items():
        write_nifti(volume, tmp_path / "in" / f"{name}_0000.nii.gz")
    program = Path(sysconfig.get_path("scripts")) / "nnUNetv2_predict"
    words = ["-d", "901", "-c", "3d_fullres", "-f", "0", "1", "-device", "cpu", "-npp", "0"]
    subprocess.run(
        [program, "-i", tmp_path / "in", "-o", tmp_path / "out", *words, "-nps", "0"],
        env={**os.environ, "nnUNet_results": str(nnunet_root / "nnUNet_results")},
        check=True,
        capture_output=True,
    )
    model = find_nnunet(nnunet_root / "nnUNet_results").load(device=CPU)
    for name, volume in volumes.items():
        labels, theirs = model.segment([volume]), nib.load(tmp_path / "out" / f"{name}.nii.gz")
        np.testing.assert_array_equal(array_of(labels)[0], np.asarray(theirs.dataobj))
        np.testing.assert_array_equal(affine_of(labels), affine_of(volume))
        assert set(np.unique(array_of(labels))) == {0, 1, 2}


@pytest.mark.parametrize("grid", ["oblique", "pir"])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_nnunet_has_its_axis_order(
    nnunet_folder, grid_volume, tmp_path, reader, grid
) -> None:
    folder = spoiled(nnunet_folder, tmp_path, "plans.json", image_reader_writer=reader)
    volume = grid_volume(grid)
    labels = find_nnunet(folder).load(device=CPU).segment([volume])
    expected = nnunet_says(folder, [volume], tmp_path / "files")
    np.testing.assert_array_equal(array_of(labels)[0], expected)
    assert len(np.unique(expected)) == 3


@pytest.mark.parametrize(
    ("folds", "mirroring"), [((0,), True), ((1,), False), ((), False)], ids=str
)
def test_folds_and_mirroring_are_those_asked_for(
    nnunet_folder, grid_volume, tmp_path, folds, mirroring
) -> None:
    volume, options = grid_volume("lps"), NnunetOptions(folds=folds, mirroring=mirroring)
    labels = find_nnunet(nnunet_folder, options).load(device=CPU).segment([volume])
    work = tmp_path / "files"
    expected = nnunet_says(nnunet_folder, [volume], work, folds=folds or None, mirroring=mirroring)
    np.testing.assert_array_equal(array_of(labels)[0], expected)


def test_folds_differ_so_that_the_tests_above_can_fail(nnunet_folder, grid_volume) -> None:
    volume = grid_volume("lps")
    found = {
        array_of(
            find_nnunet(nnunet_folder, NnunetOptions(folds=folds))
            .load(device=CPU)
            .segment([volume])
        ).tobytes()
        for folds in ((0,), (1,), (0, 1))
    }
    assert len(found) == 3


def test_regions_and_several_channels_equal_nnunets(region_folder, grid_volume, tmp_path) -> None:
    volumes = [grid_volume("oblique", 0), grid_volume("oblique", 1)]
    folder = find_nnunet(region_folder)
    labels = folder.load(device=CPU).segment(volumes)
    expected = nnunet_says(region_folder, volumes, tmp_path / "files")
    np.testing.assert_array_equal(array_of(labels)[0], expected)
    assert set(np.unique(expected)) >= {1, 2}
    assert folder.channel_names == ("T1", "FLAIR")
    assert folder.label_names == {1: "whole without core", 2: "core"}
    assert folder.class_names == ("whole", "core")


@pytest.mark.parametrize("grid", ["oblique", "pir"])
@pytest.mark.parametrize("name", ["2d", "3d_lowres"])
def test_other_configurations_equal_nnunets(
    other_folders, grid_volume, tmp_path, name, grid
) -> None:
    volume = grid_volume(grid)
    labels = find_nnunet(other_folders[name]).load(device=CPU).segment([volume])
    expected = nnunet_says(other_folders[name], [volume], tmp_path / "files", folds=(0,))
    assert (array_of(labels)[0] == expected).mean() > 0.9999
    assert len(np.unique(expected)) == 3


def test_residual_encoders_of_three_folds_with_an_ignore_label_equal_nnunets(
    residual_folder, grid_volume, tmp_path
) -> None:
    volume, folder = grid_volume("pir"), find_nnunet(residual_folder)
    labels = folder.load(device=CPU).segment([volume], n_threads=2)
    expected = nnunet_says(residual_folder, [volume], tmp_path / "files", folds=(0, 1, 2))
    assert (array_of(labels)[0] == expected).mean() > 0.9999
    assert set(np.unique(expected)) == {0, 1, 2}
    assert folder.label_names == {1: "shell", 2: "core"}
    assert folder.class_names == ("background", "shell", "core")


def test_a_cascade_equals_nnunets_two_runs(other_folders, grid_volume, tmp_path) -> None:
    volume, folder = grid_volume("oblique"), find_nnunet(other_folders["3d_cascade_fullres"])
    labels = folder.load(device=CPU).segment([volume])
    nnunet_says(other_folders["3d_lowres"], [volume], tmp_path / "low", folds=(0,))
    shutil.copy(tmp_path / "low" / "labels.nii.gz", tmp_path / "low" / "case.nii.gz")
    expected = nnunet_says(
        folder.path, [volume], tmp_path / "full", folds=(0,), before=tmp_path / "low"
    )
    assert (array_of(labels)[0] == expected).mean() > 0.9999
    assert len(np.unique(expected)) == 3
    lowres = find_nnunet(other_folders["3d_lowres"]).load(device=CPU).segment([volume])
    assert (array_of(labels) != array_of(lowres)).mean() > 0.01
    assert folder.estimate_memory((64, 64, 64), (1, 1, 1)) > 0


def test_labels_do_not_depend_on_memory(nnunet_folder, grid_volume) -> None:
    volume, folder = grid_volume("oblique"), find_nnunet(nnunet_folder, NnunetOptions(folds=(0,)))
    model = folder.load(device=CPU)
    shape, spacing = volume.shape[1:], spacing_of(affine_of(volume)).tolist()
    least = folder.least_memory(shape, spacing)
    whole, strips = (model.predict([volume], memory=memory) for memory in (None, least))
    np.testing.assert_array_equal(array_of(whole.label), array_of(strips.label))
    assert whole.doubt == pytest.approx(strips.doubt)
    with pytest.raises(OutOfMemory, match=r"needs .* GB for this image, got .* give more memory"):
        model.segment([volume], memory=least - 1)


@pytest.mark.parametrize("grid", ["lps", "pir"])
def test_probabilities_lie_where_the_labels_do(nnunet_folder, grid_volume, tmp_path, grid) -> None:
    folder = spoiled(
        nnunet_folder, tmp_path, "plans.json", image_reader_writer="NibabelIOWithReorient"
    )
    volume, options = grid_volume(grid), NnunetOptions(folds=(0,), mirroring=False)
    out = ZarrFolder(tmp_path / "p.zarr", (3, *volume.shape[1:]), background=True, attributes={})
    model = find_nnunet(folder, options).load(device=CPU)
    found = model.predict([volume], probabilities=out.write)
    out.close()
    chunk = np.frombuffer(zlib.decompress((out.path / "0.0.0.0").read_bytes()), "<f2")
    whole = chunk.reshape(out.chunks)
    np.testing.assert_allclose(whole.astype(float).sum(0), 1, atol=2e-3)
    agree = whole.argmax(0) == array_of(found.label)[0]
    assert agree.mean() > 0.99  # ties after rounding to float16


def test_the_number_and_the_grids_of_channels_are_checked(region_folder, grid_volume) -> None:
    model = find_nnunet(region_folder).load(device=CPU)
    with pytest.raises(InputError, match=r"takes 2 channel\(s\) \(T1, FLAIR\), got 1"):
        model.segment([grid_volume("lps")])
    with pytest.raises(GridMismatch, match="FLAIR: expected one grid"):
        model.segment([grid_volume("lps"), grid_volume("ras")])


def test_labels_do_not_depend_on_threads_and_repeat(nnunet_folder, grid_volume) -> None:
    options, volume = NnunetOptions(folds=(1,), mirroring=False), grid_volume("oblique")
    model = find_nnunet(nnunet_folder, options).load(device=CPU)
    first, second, threads = (array_of(model.segment([volume], n_threads=n)) for n in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, threads)


def test_it_prints_nothing_and_leaves_torch_as_it_was(
    nnunet_folder, grid_volume, capfd, monkeypatch
) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("nnUNet_compile", "true")
    before, volume = torch.get_num_threads(), grid_volume("ras")
    untouched = array_of(volume).copy()
    find_nnunet(nnunet_folder).load(device=CPU).segment([volume], n_threads=before + 1)
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == before
    assert not torch.backends.cudnn.benchmark
    np.testing.assert_array_equal(array_of(volume), untouched)


def test_label_names_and_meta_come_along(nnunet_folder, grid_volume) -> None:
    folder = find_nnunet(nnunet_folder)
    labels = folder.load(device=CPU).segment([grid_volume("ras")])
    assert folder.label_names == {1: "shell", 2: "core"}
    assert folder.name == "Dataset901_RadloomTest"
    assert (labels.dtype, labels.meta["series_uid"]) == (torch.uint8, "1.2")


def test_a_parent_of_one_folder_will_do_and_of_two_will_not(nnunet_folder, tmp_path) -> None:
    shutil.copytree(nnunet_folder, tmp_path / "one" / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    assert find_nnunet(tmp_path).path.parent.name == "one"
    shutil.copytree(nnunet_folder, tmp_path / "one" / "nnUNetTrainer__nnUNetPlans__2d")
    with pytest.raises(ConfigError, match=r"expected one nnU-Net results folder.*__2d>, <one"):
        find_nnunet(tmp_path)
    with pytest.raises(ConfigError, match="got none"):
        find_nnunet(tmp_path / "one" / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0")
    assert not is_nnunet(tmp_path / "one" / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0")


def test_absent_folds_are_named(nnunet_folder) -> None:
    folder = find_nnunet(nnunet_folder, NnunetOptions(folds=(0, 4)))
    with pytest.raises(ConfigError, match=r"expected fold_4/checkpoint_final.pth; .*fold_0/check"):
        folder.load(device=CPU)


def test_a_checkpoint_that_names_other_classes_runs_only_with_trust(
    nnunet_folder, tmp_path, grid_volume
) -> None:
    folder = spoiled(nnunet_folder, tmp_path, "dataset.json")
    path = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    torch.save({**checkpoint, "more": Path("x")}, path)
    found = find_nnunet(folder, NnunetOptions(folds=(0,)))
    with pytest.raises(NotTrusted, match=r"checkpoint_final.pth.*pathlib.*give --trust"):
        found.load(device=CPU)
    labels = found.load(device=CPU, trust=True).segment([grid_volume("ras")])
    untouched = find_nnunet(nnunet_folder, NnunetOptions(folds=(0,))).load(device=CPU)
    np.testing.assert_array_equal(
        array_of(labels), array_of(untouched.segment([grid_volume("ras")]))
    )


def test_plans_may_name_network_classes_only(nnunet_folder, tmp_path) -> None:
    plans = json.loads((nnunet_folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "os.system"
    folder = spoiled(nnunet_folder, tmp_path, "plans.json", **plans)
    with pytest.raises(NotTrusted, match=r"built by os.system, which is no part of nnU-Net"):
        find_nnunet(folder).load(device=CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"previous_stage": "3d_lowres"},
            "the first beside it, <nnUNetTrainer__nnUNetPlans__3d_low",
        ),
        ({"architecture": None}, "does not fit the network of plans.json"),
    ],
)
def test_configurations_that_cannot_work_say_so(nnunet_folder, tmp_path, change, message) -> None:
    plans = json.loads((nnunet_folder / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    if "architecture" in change:
        change = {"architecture": configuration["architecture"]}
        change["architecture"]["arch_kwargs"]["features_per_stage"][0] = 6
    configuration.update(change)
    folder = spoiled(nnunet_folder, tmp_path, "plans.json", **plans)
    with pytest.raises(ConfigError, match=message):
        find_nnunet(folder).load(device=CPU)


@pytest.mark.filterwarnings("ignore:.torch.jit.interface. is deprecated:FutureWarning")
def test_a_trainer_that_is_not_installed_is_named(nnunet_folder, tmp_path) -> None:
    folder = spoiled(nnunet_folder, tmp_path, "dataset.json")
    for path in folder.glob("fold_*/*.pth"):
        checkpoint = torch.load(path, weights_only=False)
        torch.save({**checkpoint, "trainer_name": "nnUNetTrainerOfMine"}, path)
    with pytest.raises(ConfigError, match="no trainer 'nnUNetTrainerOfMine'"):
        find_nnunet(folder).load(device=CPU)


def test_a_model_of_pictures_is_refused(nnunet_folder, tmp_path) -> None:
    folder = spoiled(nnunet_folder, tmp_path, "plans.json", image_reader_writer="NaturalImage2DIO")
    with pytest.raises(ConfigError, match="such a model does not read volumes"):
        find_nnunet(folder).load(device=CPU)


@pytest.mark.parametrize("orientation", ["", "RAS"])
def test_from_model_undoes_to_model_in_every_orientation(orientation) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4)
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, list(axes)] * np.array(signs) * [1.0, 2.0, 3.0]
            data, spacing = to_model(array, affine, orientation)
            image = nib.Nifti1Image(array[0], affine)
            turned = nib.as_closest_canonical(image) if orientation else image
            np.testing.assert_array_equal(data[0].T, np.asarray(turned.dataobj))
            assert spacing[::-1] == [float(mm) for mm in turned.header.get_zooms()]
            np.testing.assert_array_equal(from_model(data[0], affine, orientation), array[0])


@pytest.mark.slow
def test_a_head_of_one_millimetre(nnunet_folder) -> None:
    """192 x 224 x 192 voxels through a model of 4 x 1.25 x 1 mm."""
    generator = np.random.default_rng(0)
    image = generator.normal(100, 20, (192, 224, 192)).astype(np.float32)
    image[60:120, 80:150, 60:130] += 150
    volume = make_volume(image, np.diag([-1.0, 1, 1, 1]), modality="MR", units="arbitrary")
    options = NnunetOptions(folds=(0,), mirroring=False, step_size=1.0)
    folder = find_nnunet(nnunet_folder, options)
    labels = folder.load(device=CPU).segment([volume], n_threads=2)
    assert labels.shape == volume.shape
    np.testing.assert_array_equal(affine_of(labels), affine_of(volume))
    estimate = folder.estimate_memory((192, 224, 192), (1.0, 1.0, 1.0))
    assert 1e8 < estimate < 3e8  # 140e6 measured, beside the test's own arrays
    assert len(np.unique(array_of(labels))) == 3


def test_labels_are_cleaned_up_where_the_folder_asks(nnunet_folder, tmp_path, grid_volume) -> None:
    volume = grid_volume("ras")
    plain = find_nnunet(nnunet_folder)
    names = plain.label_names
    asked = Path(shutil.copytree(nnunet_folder, tmp_path / nnunet_folder.name))
    steps = {"largest_component": list(names.values())}
    (asked / "postprocessing.json").write_text(json.dumps(steps))
    model = find_nnunet(asked)
    assert model.sha256() != plain.sha256()
    before = array_of(plain.load(device=CPU).segment([volume]))[0]
    after = array_of(model.load(device=CPU).segment([volume]))[0]
    wanted = postprocess(before, names, Postprocessing(largest_component=tuple(names.values())))
    np.testing.assert_array_equal(after, wanted)
    assert (before != after).any()


def test_a_larger_volume_needs_more_memory(nnunet_folder) -> None:
    folder = find_nnunet(nnunet_folder)
    small = folder.estimate_memory((64, 64, 64), (1.0, 1.0, 1.0))
    assert folder.estimate_memory((128, 64, 64), (1.0, 1.0, 1.0)) > small
    assert folder.estimate_memory((64, 64, 64), (2.0, 1.0, 1.0)) > small


def test_like_keeps_labels_apart_from_images(nnunet_folder, grid_volume) -> None:
    volume = grid_volume("ras")
    brighter = like(volume, array_of(volume) * 3 + 7)
    model = find_nnunet(nnunet_folder).load(device=CPU)
    difference = array_of(model.segment([volume])) != array_of(model.segment([brighter]))
    assert difference.mean() < 1e-3  # z-scores do not see brightness and contrast
