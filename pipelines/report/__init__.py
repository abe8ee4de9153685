"""What a person looks at: pictures of every stage, and one page over all studies.

- `ReportStage`: the last stage of a study; draws PNG pictures from the volumes in memory.
- `write_report`: one self-contained HTML page from receipts and pictures, no voxels.

Inside: `planes` cuts planes in world space, `windows` chooses greys, `canvas` sets cells into a
PNG, `figures` says what each stage's picture shows, `cohort` reads receipts, `page` renders them.
"""

from radloom.pipelines.report.page import write_report
from radloom.pipelines.report.stage import ReportStage

__all__ = ["ReportStage", "write_report"]
