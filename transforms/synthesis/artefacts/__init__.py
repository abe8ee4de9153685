"""What a scanner makes of the truth: one effect a module, two acquisitions that put them together.

MR (`mr_acquisition`): `bias`, `field_of_view`, `resolution`, `slices` (composed by `sampling`),
`undersampling`, `ghosts`, `motion` (composed by `phase_encoding`), `spikes`, `noise`, `masking`,
`grey_levels`. CT (`ct_acquisition`): `table`, `beam_hardening` (on `projection`), `kernel`,
`quantum_noise`, `slices`. Parameters are drawn apart from applying; what is off costs nothing.
"""

from __future__ import annotations

from radloom.transforms.synthesis.artefacts.acquired import Acquired
from radloom.transforms.synthesis.artefacts.bias import bias_field
from radloom.transforms.synthesis.artefacts.ct_acquisition import (
    CTAcquisitionParameters,
    CTAcquisitionRecipe,
    acquire_ct,
    draw_ct_acquisition,
)
from radloom.transforms.synthesis.artefacts.mr_acquisition import (
    MRAcquisitionParameters,
    MRAcquisitionRecipe,
    acquire_mr,
    draw_mr_acquisition,
)
from radloom.transforms.synthesis.artefacts.noise import add_rician_noise

__all__ = [
    "Acquired",
    "CTAcquisitionParameters",
    "CTAcquisitionRecipe",
    "MRAcquisitionParameters",
    "MRAcquisitionRecipe",
    "acquire_ct",
    "acquire_mr",
    "add_rician_noise",
    "bias_field",
    "draw_ct_acquisition",
    "draw_mr_acquisition",
]
