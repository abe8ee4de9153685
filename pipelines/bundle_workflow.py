"""A run of Radloom as a MONAI workflow, for the bundle runner."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import BundleWorkflow

from radloom import __version__
from radloom.errors import StageFailed
from radloom.pipelines.workflow import Workflow, load_workflow

__all__ = ["HeadWorkflow"]


class HeadWorkflow(BundleWorkflow):  # type: ignore[misc]  # monai carries no types
    """A Radloom run under MONAI's bundle runner.

    ::

        python -m monai.bundle run_workflow \
            --workflow_name radloom.pipelines.workflow.HeadWorkflow \
            --studies_dir STUDIES --output_dir OUT

    Properties beside MONAI's meta properties: `dataset_dir` (the studies), `output_dir`, `device`,
    and `summary` once it ran. The network properties of MONAI's inference workflows do not exist
    here, a workflow has many networks; ``workflow_type="infer"`` makes `check_properties` say so.
    """

    def __init__(
        self,
        studies_dir: str,
        output_dir: str,
        workflow: str = "head",
        device: str = "auto",
        workers: int | None = None,
        scheduler: str | None = None,
        *,
        fast: bool = False,
        trust: bool = False,
        workflow_type: str | None = None,
        properties_path: str | None = None,
        meta_file: str | Sequence[str] | None = None,
        logging_file: str | None = None,
    ) -> None:
        super().__init__(workflow_type, properties_path, meta_file, logging_file)
        self._values: dict[str, Any] = {}
        for name, description in _PROPERTIES.items():
            if name not in self.properties:
                self.add_property(name, required=name != "summary", desc=description)
        self._values |= {
            **_metadata(self.meta_file),
            "dataset_dir": str(studies_dir),
            "output_dir": str(output_dir),
            "device": device,
        }
        self._workflow_name = str(workflow)
        self._options: dict[str, Any] = {
            "workers": workers,
            "scheduler": scheduler,
            "trust": trust,
        }
        self._fast = fast
        self._workflow: Workflow | None = None

    def initialize(self) -> None:
        """Read and check the workflow file."""
        self._workflow = self._load()

    def _load(self) -> Workflow:
        return load_workflow(self._workflow_name, fast=self._fast)

    def run(self) -> None:
        """Every study through the workflow; the properties say where from and where to."""
        from radloom.pipelines import runner

        self._values["summary"] = runner.run(
            Path(self._values["dataset_dir"]),
            Path(self._values["output_dir"]),
            self._workflow or self._load(),
            device=self._values["device"],
            **self._options,
        )

    def finalize(self) -> None:
        """Nothing, if every study is done; tables and report are written either way.

        Raises:
            StageFailed: some study failed or was refused.
        """
        summary = self._values.get("summary")
        if summary is not None and not summary.all_done:
            raise StageFailed(f"{summary.sentence()}: see studies.tsv in the output folder")

    def _get_property(self, name: str, property: Mapping[str, Any]) -> Any:  # noqa: A002, ARG002  # MONAI's names
        if name not in self._values:
            raise AttributeError(f"{type(self).__name__} has no property {name!r}")
        return self._values[name]

    def _set_property(self, name: str, property: Mapping[str, Any], value: Any) -> None:  # noqa: A002, ARG002  # MONAI's names
        self._values[name] = value


_PROPERTIES = {
    "dataset_dir": "folder of studies",
    "output_dir": "folder for results",
    "device": "auto, cpu, cuda or cuda:N",
    "summary": "what became of every study, once the workflow ran",
}


def _metadata(meta_file: str | Sequence[str] | None) -> dict[str, Any]:
    """MONAI's meta properties: of this installation, replaced by what the files say, in order."""
    from importlib.metadata import version

    values: dict[str, Any] = {
        "version": __version__,
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "description": "Radloom: study folders in, volumes and a picture report out",
    }
    for path in [meta_file] if isinstance(meta_file, str) else meta_file or ():
        values |= json.loads(Path(path).read_text(encoding="utf-8"))
    return values
