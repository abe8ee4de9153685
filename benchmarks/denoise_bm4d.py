"""BM4D in an interpreter of its own: NUMBERS.npy in units of the noise, denoised, to OUT.npy.

Run by `denoise_methods.py` with the interpreter that the user names; it needs bm4d and numpy alone.
"""

import sys

import bm4d
import numpy as np

if __name__ == "__main__":
    np.save(sys.argv[2], bm4d.bm4d(np.load(sys.argv[1]), 1.0).astype(np.float32))
