r"""The bias of magnitude images: what noise makes of a signal, and the way back.

A magnitude under noise of deviation :math:`\sigma` in both channels has the mean (Rice 1944,
doi:10.1002/j.1538-7305.1944.tb00874.x)

.. math:: \mu(s) = \sigma \sqrt{\pi / 2} \, e^{-x} \left[(1 + 2x) I_0(x) + 2x I_1(x)\right],
    \quad x = s^2 / 4 \sigma^2

which is :math:`\sigma \sqrt{\pi / 2}` in air and about :math:`\sqrt{s^2 + \sigma^2}` where
signal is strong. Whatever averages magnitudes comes out at :math:`\mu(s)`, not at s.

The signals of n coils, added up in quadrature, have a non-central chi distribution (Constantinides
et al. 1997, doi:10.1002/mrm.1910380524) of the mean

.. math:: \mu_n(s) = \sigma \sqrt{2} \, \Gamma(n + 1/2) / \Gamma(n) \,
    {}_1F_1(-1/2; n; -s^2 / 2 \sigma^2)

and about :math:`\sqrt{s^2 + (2n - 1) \sigma^2}` where signal is strong; of one coil, the above.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["mean_magnitude", "signal_of_mean"]

Floats = npt.NDArray[np.float32]

_STRONG = 12.0
"""Mean over noise above which it is sqrt(s^2 + (2n - 1) sigma^2): within 0.002 sigma for one coil,
0.02 sigma for 32."""


def mean_magnitude(signal: npt.ArrayLike, sigma: float | npt.ArrayLike, n_coils: int = 1) -> Floats:
    """The mean of the magnitude of `signal`, of any shape, under noise of deviation `sigma`.

    >>> [round(float(mean_magnitude(s, 2.0)), 2) for s in (0.0, 2.0, 100.0)]
    [2.51, 3.1, 100.02]
    >>> [round(float(mean_magnitude(s, 2.0, n_coils=8)), 2) for s in (0.0, 2.0, 100.0)]
    [7.88, 8.12, 100.3]
    """
    from scipy.special import gammaln, hyp1f1, ive

    s, level = np.asarray(signal, np.float64), np.maximum(np.asarray(sigma, np.float64), 1e-30)
    if n_coils > 1:
        air = np.sqrt(2) * np.exp(gammaln(n_coils + 0.5) - gammaln(n_coils))
        mean = level * air * hyp1f1(-0.5, n_coils, -((s / level) ** 2) / 2)
        return np.asarray(mean, dtype=np.float32)
    x = (s / level) ** 2 / 4
    mean = level * np.sqrt(np.pi / 2) * ((1 + 2 * x) * ive(0, x) + 2 * x * ive(1, x))
    return np.asarray(mean, dtype=np.float32)


def signal_of_mean(mean: npt.ArrayLike, sigma: float, n_coils: int = 1) -> Floats:
    """The signal whose magnitude has this `mean`, of any shape; 0 where the mean is below air's.

    Args:
        mean: of the magnitude, as denoisers give it.
        sigma: deviation of the noise; 0 leaves the mean as it is.
        n_coils: how many coils were added up in quadrature.

    >>> bool(np.allclose(signal_of_mean(mean_magnitude([0, 3, 90], 2.0), 2.0), [0, 3, 90], atol=.1))
    True
    """
    values = np.asarray(mean, dtype=np.float32)
    if sigma == 0:
        return np.array(values)
    ratio = values / np.float32(sigma)
    means, signals = _table(n_coils)
    weak = np.interp(ratio, means, signals)
    strong = np.sqrt(np.maximum(ratio * ratio - (2 * n_coils - 1), 0))
    return np.asarray(np.where(ratio < _STRONG, weak, strong) * np.float32(sigma), np.float32)


@lru_cache(maxsize=8)
def _table(n_coils: int) -> tuple[Floats, Floats]:
    """Means, rising, and the signals they belong to, in units of the noise."""
    signals = np.linspace(0, 1.1 * _STRONG, 4096, dtype=np.float32)
    return mean_magnitude(signals, 1.0, n_coils), signals
