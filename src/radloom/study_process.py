"""The process of a study, started by a worker: ``python -m radloom.study_process N_THREADS``.

Native libraries read from the environment how many threads they may use when they are loaded, so
it is set here, before any of them is.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def main() -> None:
    """Serves studies until the worker closes the pipe."""
    n_threads = int(sys.argv[1])
    os.environ.update(dict.fromkeys(_VARIABLES, str(n_threads)))
    from radloom.pipelines.engine.process import serve

    serve(n_threads)


if __name__ == "__main__":
    main()
