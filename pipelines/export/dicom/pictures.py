"""The report's pictures as Secondary Capture images, for viewers that show nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radloom.pipelines.export.dicom.heading import Heading, finish, require
from radloom.pipelines.export.dicom.references import source_image
from radloom.pipelines.export.dicom.result import Desk, ObjectSeries, content_digest
from radloom.pipelines.receipts.receipt import Check
from radloom.pipelines.study import Output, Study

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["capture_dataset", "check_captures", "picture_series", "pictures_of", "rgb_of"]


def picture_series(study: Study, desk: Desk) -> Iterator[ObjectSeries]:
    """One series of all pictures that the stage `report` drew; none where it stands later.

    Raises:
        NoDicomSource: no volume of the study came from DICOM.
    """
    pictures = pictures_of(study)
    if not pictures:
        return
    heading = desk.heading(
        "pictures", "report", "Report pictures", content_digest(*pictures), desk.any_source()
    )
    yield ObjectSeries(
        kind="pictures",
        role="",
        name="report",
        datasets=[capture_dataset(output, heading, n) for n, output in enumerate(pictures)],
        check=partial(check_captures, pictures=pictures),
        entities={"desc": ""},
    )


def pictures_of(study: Study) -> tuple[Output, ...]:
    """Every picture of the study, in the order in which they were drawn."""
    return study.find(kind="report")


def rgb_of(output: Output) -> npt.NDArray[np.uint8]:
    """(row, column, 3) of a picture."""
    from PIL import Image

    assert isinstance(output.data, bytes)
    with Image.open(BytesIO(output.data)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def title_of(output: Output) -> str:
    """``register, t2``: the stage and the role that a picture is of."""
    stage = str(output.sidecar.get("stage", output.name))
    text = f"{stage}, {output.role}" if output.role else stage
    return text.encode("ascii", "replace").decode()


def capture_dataset(output: Output, heading: Heading, index: int) -> Dataset:
    """One finished Secondary Capture image, its source series' first image as the source."""
    import highdicom as hd

    capture: Any = hd.sc.SCImage(
        pixel_array=rgb_of(output),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        **heading.study_arguments(),
        **heading.arguments(index),
    )
    capture.PatientOrientation = ""  # several views in one picture
    capture.ConversionType = "WSD"
    capture.BurnedInAnnotation = "NO"
    capture.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    capture.SourceImageSequence = [source_image(heading.source.first)]
    finish(capture, heading, index)
    capture.ImageComments = f"{title_of(output)}. {capture.ImageComments}"
    return capture


def check_captures(datasets: Sequence[Dataset], *, pictures: Sequence[Output]) -> Iterable[Check]:
    """Nothing, if each image's pixels are those of its picture.

    Raises:
        StageFailed: they are not.
    """
    require(len(datasets) == len(pictures), "captures", f"{len(pictures)} images", len(datasets))
    for dataset, output in zip(datasets, pictures, strict=True):
        same = np.array_equal(dataset.pixel_array, rgb_of(output))
        require(same, f"capture of {title_of(output)}", "the picture's pixels", "others")
    return ()
