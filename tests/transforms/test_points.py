from __future__ import annotations

import json

import numpy as np
import pytest

from radloom.errors import InputError
from radloom.transforms.points import read_points

POINTS_RAS = np.array([[10.0, -20.0, 30.5], [-1.25, 2.0, 3.0]])
FLIP = np.array([-1.0, -1.0, 1.0])


def fcsv(system: str, points: np.ndarray) -> str:
    """As Slicer writes it."""
    rows = [
        f"{n},{x},{y},{z},0,0,0,1,1,1,0,F-{n},,vtkMRMLScalarVolumeNode1"
        for n, (x, y, z) in enumerate(points.tolist())
    ]
    head = [
        "# Markups fiducial file version = 4.13",
        f"# CoordinateSystem = {system}",
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID",
    ]
    return "\n".join([*head, *rows]) + "\n"


def markups(system: str, points: np.ndarray, **more) -> str:
    placed = [{"label": f"F-{n}", "position": p} for n, p in enumerate(points.tolist())]
    waiting = {"label": "later", "position": [], "positionStatus": "undefined"}
    markup = {"type": "Fiducial", "coordinateSystem": system, "controlPoints": [*placed, waiting]}
    return json.dumps({"@schema": "markups-schema-v1.0.3.json#", "markups": [markup | more]})


FILES = {
    "plain.csv": "x,y,z\n10,-20,30.5\n-1.25,2,3\n",
    "named.csv": 'name,x,y,z\n"AC, anterior",10,-20,30.5\nPC,-1.25,2,3\n',
    "lps.csv": "# CoordinateSystem = LPS\nx,y,z\n-10,20,30.5\n1.25,-2,3\n",
    "upper.tsv": "Z\tX\tY\n30.5\t10\t-20\n3\t-1.25\t2\n",
    "slicer_ras.csv": "label,r,a,s,defined\nF-1,10,-20,30.5,1\nF-2,-1.25,2,3,1\n",
    "slicer_lps.csv": "label,l,p,s,defined\nF-1,-10,20,30.5,1\nF-2,1.25,-2,3,1\n",
    "new.fcsv": fcsv("LPS", POINTS_RAS * FLIP),
    "old.fcsv": fcsv("0", POINTS_RAS),
    "bare.fcsv": "0,10,-20,30.5\n1,-1.25,2,3\n",
    "lps.mrk.json": markups("LPS", POINTS_RAS * FLIP),
    "ras.mrk.json": markups("RAS", POINTS_RAS),
}


@pytest.mark.parametrize("name", FILES)
def test_points_of_every_kind_of_file_are_ras(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    np.testing.assert_allclose(read_points(tmp_path / name).points, POINTS_RAS, atol=1e-9)


@pytest.mark.parametrize("name", FILES)
def test_a_rewritten_file_holds_the_new_points_and_all_else(tmp_path, name):
    path = tmp_path / name
    path.write_text(FILES[name])
    found = read_points(path)
    moved = found.points + np.array([1.5, 2.25, -3.125])
    path.write_text(found.rewritten(moved))
    np.testing.assert_allclose(read_points(path).points, moved, atol=1e-6)
    path.write_text(read_points(path).rewritten(POINTS_RAS))
    same = path.read_text()
    for word in ("AC, anterior", "F-1", "later", "vtkMRMLScalarVolumeNode1", "# columns"):
        assert (word in FILES[name]) == (word in same)
    assert read_points(path).rewritten(POINTS_RAS) == same


def test_a_length_measured_before_is_not_carried_along(tmp_path):
    path = tmp_path / "line.mrk.json"
    path.write_text(markups("LPS", POINTS_RAS, type="Line", measurements=[{"value": 12.0}]))
    content = json.loads(read_points(path).rewritten(POINTS_RAS * 2))
    assert "measurements" not in content["markups"][0]
    assert content["markups"][0]["controlPoints"][2] == {
        "label": "later",
        "position": [],
        "positionStatus": "undefined",
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x,y,z\n", "expected points in .csv, .tsv"),
        ("a.csv", "a,b,c\n1,2,3\n", "<a.csv>: expected columns x, y and z, got 'a, b, c'"),
        ("a.csv", "", "expected columns x, y and z"),
        ("a.csv", "x,y,z\n1,2\n", "<a.csv> point 1: expected three numbers"),
        ("a.csv", "x,y,z\n1,2,nan\n", "expected finite numbers"),
        ("a.fcsv", "# CoordinateSystem = IJK\n0,1,2,3\n", "expected the coordinate system RAS or"),
        ("a.mrk.json", "{}", "<a.mrk.json>: expected markups of 3D Slicer"),
        ("a.mrk.json", "x", "<a.mrk.json>: expected markups of 3D Slicer"),
        ("a.mrk.json", markups("LPS", POINTS_RAS, type="ROI"), "expected markups of .*, got ROI"),
        ("a.mrk.json", markups("LPS", POINTS_RAS, coordinateUnits="m"), "lengths in mm, got m"),
    ],
)
def test_what_is_no_list_of_points_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_points(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"<none.csv>: expected a text file of points"):
        read_points(tmp_path / "none.csv")
