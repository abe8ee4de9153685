"""What a person looks at: pictures of every stage, and pages over all studies.

- `ReportStage`: the last stage of a study; draws PNG pictures from the volumes in memory.
- `write_report`: self-contained HTML from receipts and pictures, no voxels.

Inside: `planes` cuts planes in world space, `windows` chooses greys, `canvas` sets cells into a
PNG, `figures` says what each stage's picture shows; `cohort` reads receipts, `page` says which
pages there are, `render` makes them, `pictures`, `bars` and `words` what stands in them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radloom.pipelines.report.page import write_report
    from radloom.pipelines.report.stage import ReportStage

__all__ = ["ReportStage", "write_report"]

_HOMES = {"ReportStage": "stage", "write_report": "page"}
"""Name -> the module that is imported when it is asked for: pages alone need no torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
