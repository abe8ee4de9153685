import uuid
from dataclasses import replace

from pydicom.uid import UID

from radloom.pipelines.export.dicom.uids import ObjectUIDs, make_uid

UIDS = ObjectUIDs("1.2.3", ("1.2.3.4",), "derived/denoised", "abc")


def test_uids_are_valid_uuids_of_version_8() -> None:
    for number in range(50):
        made = make_uid("x", str(number))
        assert UID(made).is_valid
        known = uuid.UUID(int=int(made.removeprefix("2.25.")))
        assert (known.version, known.variant) == (8, uuid.RFC_4122)


def test_same_parts_same_uids_and_every_part_counts() -> None:
    assert replace(UIDS).instance(3) == UIDS.instance(3)
    others = [
        replace(UIDS, study_uid="1.2.4"),
        replace(UIDS, source_uids=("1.2.3.5",)),
        replace(UIDS, kind="derived/registered"),
        replace(UIDS, fingerprint="abd"),
    ]
    series = {one.series for one in (UIDS, *others)}
    instances = {one.instance(index) for one in (UIDS, *others) for index in range(4)}
    assert len(series) == 5
    assert len(instances) == 20
    assert series.isdisjoint(instances)


def test_parts_do_not_run_into_each_other() -> None:
    assert make_uid("ab", "c") != make_uid("a", "bc")
    assert UIDS.other("tracking", 1) != UIDS.other("tracking1", 0)
