"""Canon's diffusion weighting, which its classic MR images carry as words in ImageComments.

``b=1500(0.445,0.000,0.895)`` is the b-value in s/mm2 and the gradient along the image's own axes:
the phase-encoding direction, the other in-plane direction, and against the normal. Toshiba, before
Canon, wrote the standard's elements, and so do enhanced objects; those count first. Canon documents
the comment nowhere. The order of its components is the one that dcm2niix found on Canon's scans
(https://github.com/rordenlab/dcm2niix/issues/422), against which it is tested here; for
InPlanePhaseEncodingDirection ROW nobody has published a scan, and the polarity of phase encoding,
which the files do not tell, is left out of account by both.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["CanonWeighting", "canon_weighting", "is_canon"]

NUMBER = r"[+-]?\d*\.?\d+(?:[eE][+-]?\d+)?"

COMMENT = re.compile(rf"\[?\s*b\s*=\s*({NUMBER})\s*(?:\(({NUMBER}),({NUMBER}),({NUMBER})\))?\s*\]?")
"""All of the comment: what else stands in it could mean anything."""


class CanonWeighting(NamedTuple):
    """What one comment says."""

    b_value: float
    """s/mm2."""
    gradient: tuple[float, float, float] | None
    """Along rows, columns and the normal of the image; None where the comment has none."""


def is_canon(manufacturer: str) -> bool:
    """Whether Manufacturer (0008,0070) is Canon's, or Toshiba's before it.

    >>> is_canon("CANON_MEC"), is_canon("TOSHIBA_MEC"), is_canon("SIEMENS")
    (True, True, False)
    """
    return manufacturer.strip().upper().startswith(("CANON", "TOSHIBA"))


def canon_weighting(comment: str, *, is_row: bool) -> CanonWeighting | None:
    """The weighting that ImageComments (0020,4000) speaks of; None where it is about other things.

    Args:
        comment: as written.
        is_row: whether InPlanePhaseEncodingDirection (0018,1312) is ROW.

    >>> canon_weighting("b=1500(0.445,0.000,0.895)", is_row=False)
    CanonWeighting(b_value=1500.0, gradient=(0.0, 0.445, -0.895))
    >>> canon_weighting("b=0", is_row=False), canon_weighting("no b=0 taken", is_row=False)
    (CanonWeighting(b_value=0.0, gradient=None), None)
    """
    found = COMMENT.fullmatch(comment.strip())
    if found is None:
        return None
    b_value = float(found[1])
    if found[2] is None or not b_value:
        return CanonWeighting(b_value, None)
    phase, other, through = (float(found[i]) for i in (2, 3, 4))
    along = (phase, -other, -through) if is_row else (other, phase, -through)
    return CanonWeighting(b_value, along)
