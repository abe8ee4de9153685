"""A folder of DICOM, NIfTI, NRRD and MHA files de-identified into another folder."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from radloom import __version__
from radloom.errors import ConfigError, SeriesRefused
from radloom.pipelines.deidentify.dicom import (
    NotDeidentifiable,
    deidentify_dataset,
    patient_of,
    session_of,
)
from radloom.pipelines.deidentify.images import clean_itk, clean_nifti
from radloom.pipelines.deidentify.keys import Pseudonyms
from radloom.pipelines.deidentify.profile import Options, load_profile, methods_of
from radloom.pipelines.deidentify.sidecars import clean_sidecar
from radloom.pipelines.deidentify.words import clean_words, identifier_words
from radloom.pipelines.ingest.archives import file_that_holds, unpacked
from radloom.pipelines.ingest.examine import look_at_folder
from radloom.pipelines.ingest.files import home_of
from radloom.pipelines.ingest.headers import PARSE_ERRORS, quiet_dicom
from radloom.pipelines.ingest.scan import Found, image_stem
from radloom.pipelines.receipts.files import write_file
from radloom.pipelines.receipts.plain import to_json
from radloom.pipelines.study import SeriesRecord, StudyRecord

__all__ = ["FolderSummary", "Item", "deidentify_folder", "session_label", "write_crosswalk"]

TABLE = "deidentification.tsv"
RECORD = "deidentification.json"

DIFFUSION_ENDINGS = (".bval", ".bvec")
"""Tables of numbers beside a diffusion NIfTI."""


@dataclass(frozen=True)
class Item:
    """What became of one source file."""

    source: str
    """Path relative to IN: names the patient, perhaps; never written below OUT."""
    path: str = ""
    """Path relative to OUT; empty if it was refused."""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class FolderSummary:
    """What became of a folder."""

    items: tuple[Item, ...]
    out: Path

    @property
    def n_written(self) -> int:
        """Files that were cleaned and written."""
        return sum(bool(item.path) for item in self.items)

    @property
    def n_refused(self) -> int:
        """Images that were not written."""
        return len(self.items) - self.n_written

    def sentence(self) -> str:
        """``90 of 92 images de-identified; refused: 2 burned_in_annotation``."""
        reasons = Counter(item.reason for item in self.items if item.reason)
        listed = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        rest = f"; refused: {listed}" if listed else ""
        return f"{self.n_written} of {len(self.items)} images de-identified{rest}"


def deidentify_folder(
    folder: Path, out: Path, names: Pseudonyms, options: Options | None = None
) -> FolderSummary:
    """Every image below `folder`, cleaned, as ``OUT/sub-*/ses-*/...`` under names made of digests.

    What is no image is not copied. `out` also gets ``deidentification.tsv`` (what became of each
    file, sources as keyed digests) and ``deidentification.json`` (what was done).

    Raises:
        ConfigError: `out` lies in `folder`, or holds something else already.
    """
    options = options or Options()
    _require_apart(folder, out)
    out.mkdir(parents=True, exist_ok=True)
    by_holder: dict[Path, list[Found]] = defaultdict(list)
    for looked in look_at_folder(folder):
        by_holder[file_that_holds(folder, looked.found.path).parent].append(looked.found)
    items = []
    for several in by_holder.values():
        items += _several(folder, several, out, names, options)
    items.sort(key=lambda item: item.source)
    _write_tables(out, items, names, options)
    return FolderSummary(tuple(items), out)


def write_crosswalk(summary: FolderSummary, path: Path) -> None:
    """A table from source paths to paths in OUT, for those who keep the key; not below OUT.

    Raises:
        ConfigError: `path` lies below OUT.
    """
    if path.resolve().is_relative_to(summary.out.resolve()):
        raise ConfigError(f"expected the crosswalk outside of <{summary.out}>, got <{path}>")
    rows = ["source\tpath\treason\tdetail"]
    rows += ["\t".join((i.source, i.path, i.reason, i.detail)) for i in summary.items]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8", errors="surrogateescape")
    path.chmod(0o600)


def session_label(label: str, patient: str, names: Pseudonyms) -> str:
    """A session's label: dates moved, short numbers kept, anything else as a digest.

    >>> [session_label(label, "", Pseudonyms(bytes(32))) for label in ("2", "date1")]
    ['2', 'date1']
    """
    moved = names.date(patient, label)
    if moved:
        return moved
    known = clean_words(label, load_profile().vocabulary) == label and not re.search(
        r"\d{3}", label
    )
    return label if known else names.digest("session", f"{patient}\x00{label}")


def _several(
    folder: Path, several: Sequence[Found], out: Path, names: Pseudonyms, options: Options
) -> list[Item]:
    """What became of the files of one folder, and of the archives in it, unpacked for a while."""
    plain = [f for f in several if file_that_holds(folder, f.path) == folder / f.path]
    packed = [found for found in several if found not in plain]
    items = [_one(folder, found, out, names, options) for found in plain]
    if packed:
        series = SeriesRecord("", "", "", "accepted", files=tuple(f.path for f in packed))
        try:
            with unpacked(StudyRecord("", "", "", folder, ()), series) as opened:
                items += [_one(opened.root, found, out, names, options) for found in packed]
        except SeriesRefused as refusal:
            items += [
                Item(f.path, reason=refusal.code.value, detail=refusal.detail) for f in packed
            ]
    return items


def _one(root: Path, found: Found, out: Path, names: Pseudonyms, options: Options) -> Item:
    clean = _KINDS.get(found.kind)
    if clean is None:
        return Item(found.path, reason=_code_of(found), detail=found.detail)
    try:
        return Item(found.path, clean(root, found, out, names, options))
    except (NotDeidentifiable, SeriesRefused) as refusal:
        code = getattr(refusal.code, "value", refusal.code)
        return Item(found.path, reason=code, detail=refusal.detail)


def _dicom(folder: Path, found: Found, out: Path, names: Pseudonyms, options: Options) -> str:
    import pydicom

    with quiet_dicom():
        try:
            dataset = pydicom.dcmread(folder / found.path, force=True)
            subject = names.subject(patient_of(dataset))
            session = session_of(dataset, names)
            series = names.digest("series", str(dataset.get("SeriesInstanceUID", "")), 12)
            instance = str(dataset.get("SOPInstanceUID", "")) or found.path
            deidentify_dataset(dataset, names, options)
            name = names.digest("instance", instance, 16)
            path = Path(f"sub-{subject}", f"ses-{session}", f"series-{series}", f"{name}.dcm")
            _publish(out / path, lambda part: dataset.save_as(part, enforce_file_format=True))
        except NotDeidentifiable:
            raise
        except PARSE_ERRORS as error:
            raise NotDeidentifiable(
                "unreadable", f"damaged, or not DICOM ({type(error).__name__}); copy it anew"
            ) from None
    return path.as_posix()


def _image(folder: Path, found: Found, out: Path, names: Pseudonyms, options: Options) -> str:
    """A NIfTI, NRRD or MHA file, with its sidecar and tables of gradients."""
    del options
    home = home_of(folder, found.path)
    place, _, name = found.path.rpartition("/")
    stem = image_stem(name)
    if name.lower().endswith(".hdr"):
        raise NotDeidentifiable(
            "pair", "a header whose voxels lie in another file; convert to .nii"
        )
    suffix = name[len(stem) :].lower().replace(".mhd", ".mha").replace(".nhdr", ".nrrd")
    own = "_".join(w for w in stem.split("_") if not re.match(r"(sub|ses)-", w))
    identifiers = identifier_words((home.subject,))
    words = clean_words(own, load_profile().vocabulary, identifiers).replace(" ", "_")
    subject, session = names.subject(home.subject), session_label(home.session, home.subject, names)
    base = f"{words}_{names.digest('file', found.path, 8)}".lstrip("_")
    path = Path(f"sub-{subject}", f"ses-{session}", base + suffix)
    clean = clean_nifti if found.kind == "nifti" else clean_itk
    _publish(out / path, lambda part: clean(folder / found.path, part))
    beside = folder / place / f"{stem}.json"
    if beside.is_file():
        write_file((out / path).with_name(f"{base}.json"), _sidecar(beside, home.subject, names))
    for ending in DIFFUSION_ENDINGS:
        table = folder / place / f"{stem}{ending}"
        if table.is_file():
            numbers = table.read_text(encoding="ascii", errors="replace")
            if re.fullmatch(r"[\s\d.eE+-]*", numbers):
                write_file((out / path).with_name(base + ending), numbers.encode())
    return path.as_posix()


def _sidecar(file: Path, patient: str, names: Pseudonyms) -> bytes:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    cleaned = clean_sidecar(
        content if isinstance(content, dict) else {},
        load_profile(),
        identifiers=identifier_words((patient,)),
        move_date=lambda date: names.date(patient, date),
        map_uid=names.uid,
    )
    return to_json(cleaned)


_KINDS: dict[str, Callable[[Path, Found, Path, Pseudonyms, Options], str]] = {
    "dicom": _dicom,
    "nifti": _image,
    "itk": _image,
}


def _publish(path: Path, write: Callable[[Path], object]) -> None:
    """The file under its name only once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _code_of(found: Found) -> str:
    return found.code.value if found.code is not None else "unreadable"


def _require_apart(folder: Path, out: Path) -> None:
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"expected OUT outside of <{folder}>, got <{out}> inside")
    if folder.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"expected the originals outside of OUT, got <{folder}> inside <{out}>")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise ConfigError(
            f"expected an empty folder or an earlier de-identification, got <{out}>, which holds "
            "something else: name another folder"
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"expected a folder, got the file <{out}>")


def _write_tables(out: Path, items: Sequence[Item], names: Pseudonyms, options: Options) -> None:
    rows = sorted(
        (i.path or f"source-{names.digest('file', i.source, 12)}", i.reason or "", i.path != "")
        for i in items
    )
    lines = ["path\tstatus\treason"]
    lines += [f"{path}\t{'written' if ok else 'refused'}\t{reason}" for path, reason, ok in rows]
    write_file(out / TABLE, ("\n".join(lines) + "\n").encode())
    record = {
        "radloom": __version__,
        "method": [{"code": code, "meaning": meaning} for code, meaning in methods_of(options)],
        "accepted_modalities": sorted(options.accept),
        "key": names.digest("key", "", 8),
    }
    write_file(out / RECORD, to_json(record))
