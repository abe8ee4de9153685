"""How large the structures of an adult's brain may be before a person should look.

The limits are estimates of ours, laid so widely that age, sex and head size should stay inside;
they come from no table and were tried on no cohort yet. They tell a broken segmentation, not a
disease; children, resections and hydrocephalus fall outside.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["expected_ml"]

_EXPECTED_ML: Mapping[str, tuple[float, float]] = {
    "cerebral white matter": (120, 380),
    "cerebral cortex": (130, 380),
    "lateral ventricle": (1, 90),
    "cerebellar white matter": (6, 30),
    "cerebellar cortex": (30, 90),
    "thalamus": (4, 12),
    "caudate": (1.8, 7),
    "putamen": (2.5, 8.5),
    "pallidum": (0.8, 3.5),
    "hippocampus": (1.8, 6.5),
    "amygdala": (0.7, 3),
    "accumbens": (0.15, 1.2),
    "ventral diencephalon": (2, 6.5),
    "third ventricle": (0.2, 6),
    "fourth ventricle": (0.5, 6),
    "brainstem": (12, 35),
}
"""Of one side, where the structure has two."""


def expected_ml(structure: str) -> tuple[float, float] | None:
    """The least and the largest volume expected of a structure of `CLASSES`, in mL, if we say one.

    >>> expected_ml("left hippocampus")
    (1.8, 6.5)
    """
    return _EXPECTED_ML.get(structure.lower().removeprefix("left ").removeprefix("right "))
