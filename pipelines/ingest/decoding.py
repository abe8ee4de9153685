"""The stored values of one DICOM file, decoded by a named plugin, whole and within their bits.

What comes out are stored values; slope and intercept are for `pixels`. A file whose values break
what its header says of them is refused.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt

from radloom.errors import ReasonCode, SeriesRefused
from radloom.pipelines.ingest.elements import Bounded, Unusual, read_elements
from radloom.pipelines.ingest.headers import PARSE_ERRORS
from radloom.pipelines.ingest.quiet import native_messages, quiet_dicom

__all__ = ["decode", "open_image", "undecodable"]

DECODERS: Final = {
    "1.2.840.10008.1.2.5": "pydicom",  # RLE Lossless
    "1.2.840.10008.1.2.4.50": "gdcm",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51": "gdcm",  # JPEG Extended
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70": "gdcm",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "gdcm",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": "gdcm",  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.90": "gdcm",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": "gdcm",  # JPEG 2000
}
"""Transfer syntax -> the pydicom plugin that decodes it, named so that the same input gives the
same bytes whatever else is installed (lossy decoders differ in the last place)."""

JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
"""JPEG Extended (Process 2 and 4): lossy, 8 or 12 bits."""

PIXEL_TAG: Final = b"\xe0\x7f\x10\x00"
"""PixelData (7FE0,0010), little-endian."""

IMPLICIT: Final = "1.2.840.10008.1.2"
"""Implicit VR Little Endian."""

QUICK_SYNTAXES: Final = (IMPLICIT, "1.2.840.10008.1.2.1")
"""Transfer syntaxes whose pixels are numpy's own numbers."""

BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
"""Explicit VR Big Endian, retired."""

NATIVE_SYNTAXES: Final = (
    *QUICK_SYNTAXES,
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
    BIG_ENDIAN,
)
"""Transfer syntaxes whose pixels lie there as they are."""

CORRUPT: Final = re.compile(r"Corrupt JPEG data[\w :]*|Premature end of JPEG file")
"""What libjpeg, in GDCM, says on standard error of data that it fills up with values of its own."""

OVERLAY_GROUPS: Final = range(0x6000, 0x6020, 2)
"""Groups of overlay planes (DICOM PS3.3 C.9.2)."""


def decode(file: Path) -> tuple[npt.NDArray[Any], Any]:
    """(frame, row, column) stored values of one file, and its dataset.

    Raises:
        SeriesRefused: it cannot be read or decoded, or its values break its header.
    """
    with suppress(Unusual, *PARSE_ERRORS):
        return _quickly(file)
    with quiet_dicom():
        dataset = open_image(file)
        return _by_pydicom(file, dataset), dataset


def _by_pydicom(file: Path, dataset: Any) -> npt.NDArray[Any]:
    if "PixelData" not in dataset:
        raise SeriesRefused(
            ReasonCode.TRUNCATED, "expected pixels in every file, got none in one; copy it anew"
        )
    try:
        stored = _plain(dataset) if _is_native(dataset) else _decoded(file, dataset)
        expected = (int(dataset.Rows), int(dataset.Columns))
    except PARSE_ERRORS as error:
        if isinstance(error, SeriesRefused):
            raise
        raise undecodable(error) from error
    stored = stored if stored.ndim == 3 else stored[None]
    if stored.shape[1:] != expected:
        raise SeriesRefused(
            ReasonCode.UNREADABLE,
            f"expected {expected[0]} rows of {expected[1]} grey values, got {stored.shape[1:]}",
        )
    return stored


def _quickly(file: Path) -> tuple[npt.NDArray[Any], Any]:
    """As `decode`, of uncompressed pixels of a file that keeps to the standard.

    Raises:
        Unusual: `decode` should look at it with pydicom, or say what is wrong with it.
    """
    with file.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        dataset, place = read_elements(stream, size)
        meta = dataset.file_meta
        syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
        if syntax not in QUICK_SYNTAXES or "ModalityLUTSequence" in dataset:
            raise Unusual
        n_bytes = int(dataset.get("BitsAllocated") or 0) // 8
        if n_bytes not in (1, 2, 4) or int(dataset.get("SamplesPerPixel") or 1) > 1:
            raise Unusual
        stream.seek(place)
        head = stream.read(12)
        is_long = head[4:6] in (b"OB", b"OW")
        if head[:4] != PIXEL_TAG or (not is_long and syntax != IMPLICIT):
            raise Unusual
        start = place + (12 if is_long and syntax != IMPLICIT else 8)
        stream.seek(start)
        content = stream.read(size - start)
    stored = _native(dataset, content, n_bytes)
    return _within_bits(stored, dataset), dataset


def open_image(file: Path) -> Any:
    """A pydicom dataset whose pixels decode through the plugin that `DECODERS` names.

    Raises:
        SeriesRefused: damaged, or no decoder for its transfer syntax is installed.
    """
    import pydicom
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    try:
        with quiet_dicom(), file.open("rb") as stream:
            # A length may claim gigabytes; pydicom asks for them at once.
            bounded = cast("BinaryIO", Bounded(stream, os.fstat(stream.fileno()).st_size))
            dataset = pydicom.dcmread(bounded, force=True)
    except PARSE_ERRORS as error:
        raise SeriesRefused(
            ReasonCode.UNREADABLE, f"a damaged file ({type(error).__name__}); copy it anew"
        ) from error
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if syntax is None:
        return dataset
    if not isinstance(syntax, UID):
        raise SeriesRefused(
            ReasonCode.UNREADABLE,
            "TransferSyntaxUID (0002,0010): expected one, got several; copy it anew",
        )
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is not None and not decoder.is_encapsulated:
        return dataset
    plugins = decoder.available_plugins if decoder is not None else ()
    if not plugins:
        raise SeriesRefused(
            ReasonCode.CODEC_MISSING,
            f"TransferSyntaxUID (0002,0010): no installed decoder for {syntax.name}",
        )
    wanted = DECODERS.get(str(syntax), plugins[0])
    dataset.pixel_array_options(decoding_plugin=wanted if wanted in plugins else plugins[0])
    return dataset


def undecodable(error: Exception) -> SeriesRefused:
    """The refusal of pixels at which a decoder gave up."""
    return SeriesRefused(
        ReasonCode.UNREADABLE, f"the pixels cannot be decoded ({type(error).__name__}); copy anew"
    )


def _is_native(dataset: Any) -> bool:
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    return syntax is None or str(syntax) in NATIVE_SYNTAXES


def _decoded(file: Path, dataset: Any) -> npt.NDArray[Any]:
    """The values of compressed pixels as their decoder gives them.

    Raises:
        SeriesRefused: it went on after data that it says are corrupt.
    """
    with native_messages() as said:
        if _is_lossy_twelve(dataset):
            stored = _twelve_bits(file, dataset)
        else:
            stored = np.asarray(dataset.pixel_array)
    found = next((CORRUPT.search(line) for line in said if CORRUPT.search(line)), None)
    if found is not None:
        raise SeriesRefused(
            ReasonCode.UNREADABLE, f"the decoder says: {found[0].strip()}; copy the file anew"
        )
    return stored


def _plain(dataset: Any) -> npt.NDArray[Any]:
    """Uncompressed values as they lie there."""
    n_bytes = int(dataset.get("BitsAllocated") or 0) // 8
    if n_bytes not in (1, 2, 4) or int(dataset.get("SamplesPerPixel") or 1) > 1:
        return np.asarray(dataset.pixel_array)
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    element, is_big = dataset["PixelData"], str(syntax) == BIG_ENDIAN
    content = element.value
    if is_big and n_bytes == 1 and element.VR == "OW":
        # Bytes lie in words, and words in the other order (PS3.5 section 8.1.1 and annex A.3).
        pairs = np.frombuffer(content[: len(content) // 2 * 2], dtype=">u2").astype("<u2")
        content = pairs.tobytes() + content[len(content) // 2 * 2 :]
    return _within_bits(_native(dataset, content, n_bytes, is_big=is_big), dataset)


def _native(
    dataset: Any, content: bytes, n_bytes: int, *, is_big: bool = False
) -> npt.NDArray[Any]:
    """(frame, row, column) values of uncompressed pixels, every bit of them.

    pydicom's own array has the bits beyond BitsStored cut off, whatever they held.
    """
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    frames = int(dataset.get("NumberOfFrames") or 1)
    n_values = frames * rows * columns
    if len(content) < n_values * n_bytes:
        raise SeriesRefused(
            ReasonCode.TRUNCATED,
            f"expected {n_values * n_bytes} bytes of pixels, got {len(content)}; copy anew",
        )
    kind = "i" if int(dataset.get("PixelRepresentation") or 0) == 1 else "u"
    dtype = f"{'>' if is_big else '<'}{kind}{n_bytes}"
    values = np.frombuffer(content, dtype=dtype, count=n_values).reshape(frames, rows, columns)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _within_bits(stored: npt.NDArray[Any], dataset: Any) -> npt.NDArray[Any]:
    """Values from the bits that BitsStored and HighBit name (DICOM PS3.5 section 8.1.1).

    The other bits must be empty, or repeat the sign, unless an overlay is said to lie in them.

    Raises:
        SeriesRefused: something else lies in them, so that the values are not certain.
    """
    n_bits = int(dataset.get("BitsStored") or stored.dtype.itemsize * 8)
    high = int(dataset.get("HighBit", n_bits - 1))
    allocated = stored.dtype.itemsize * 8
    if not 0 < n_bits <= allocated:
        raise SeriesRefused(
            ReasonCode.UNREADABLE,
            f"BitsStored (0028,0101): expected 1 to {allocated}, got {n_bits}; copy anew",
        )
    if n_bits >= allocated or not n_bits - 1 <= high < allocated:
        return stored
    above = allocated - 1 - high
    # Shifting back arithmetically repeats the sign of signed values.
    cut: npt.NDArray[Any] = np.right_shift(np.left_shift(stored, above), allocated - n_bits)
    if high == n_bits - 1 and np.array_equal(cut, stored):
        return stored
    if high > n_bits - 1 or _has_embedded_overlay(dataset):
        return cut
    raise SeriesRefused(
        ReasonCode.AMBIGUOUS_UNITS,
        f"BitsStored (0028,0101): expected values of {n_bits} bits, got {int(stored.min())} to "
        f"{int(stored.max())}: what the other bits hold is not said",
    )


def _has_embedded_overlay(dataset: Any) -> bool:
    """Whether OverlayBitPosition (60xx,0102) puts an overlay into the pixels' unused bits."""
    tags = ((group, 0x0102) for group in OVERLAY_GROUPS)
    return any(tag in dataset and int(dataset[tag].value or 0) > 0 for tag in tags)


def _is_lossy_twelve(dataset: Any) -> bool:
    syntax = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", ""))
    return syntax == JPEG_EXTENDED and int(dataset.get("BitsStored") or 0) > 8


def _twelve_bits(file: Path, dataset: Any) -> npt.NDArray[Any]:
    """Lossy JPEG of 12 bits through GDCM itself, to which pydicom's plugin does not let it.

    Tested against libjpeg-turbo on NEMA's samples: the same values.
    """
    import gdcm

    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    reader = gdcm.ImageReader()
    reader.SetFileName(str(file))
    if not reader.Read():
        raise SeriesRefused(
            ReasonCode.UNREADABLE, "the pixels cannot be decoded (12-bit lossy JPEG); copy anew"
        )
    image = reader.GetImage()
    content = image.GetBuffer().encode("utf-8", "surrogateescape")
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    values = np.frombuffer(content, dtype="<i2" if signed else "<u2")
    return values.reshape(-1, int(dataset.Rows), int(dataset.Columns))
