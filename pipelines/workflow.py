"""Which stages run, in which order, with which parameters; and the same as a MONAI workflow.

A workflow file is YAML::

    name: head
    stages:
      - stage: ingest
      - stage: register
        parameters: {fixed: t1, transform: rigid}

A stage's parameters are the fields of its class. Unknown keys are errors, so are values of another
type. Paths are relative to the folder of the file.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, create_model
from pydantic import Field as ModelField
from pydantic_core import to_jsonable_python

from radloom import __version__
from radloom.errors import ConfigError
from radloom.pipelines.stage import Stage

if TYPE_CHECKING:
    from radloom.pipelines.bundle_workflow import HeadWorkflow

__all__ = [
    "STAGES",
    "HeadWorkflow",
    "StageConfig",
    "Workflow",
    "WorkflowConfig",
    "load_workflow",
    "make_stage",
]

STAGES: Mapping[str, str] = {
    "ingest": "radloom.pipelines.ingest:IngestStage",
    "denoise": "radloom.pipelines.denoise:DenoiseStage",
    "register": "radloom.pipelines.register:RegisterStage",
    "translate": "radloom.pipelines.translate:TranslateStage",
    "segment": "radloom.pipelines.segment:SegmentStage",
    "report": "radloom.pipelines.report:ReportStage",
    "export": "radloom.pipelines.export.dicom.stage:ExportStage",
}
"""Every stage that a workflow file can name -> the module and class that does it."""


class StageConfig(BaseModel):
    """One entry of `stages` in a workflow file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    stage: str
    """A key of `STAGES`."""
    parameters: dict[str, JsonValue] = ModelField(default_factory=dict)
    """Fields of the stage's class."""


class WorkflowConfig(BaseModel):
    """A workflow file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    description: str = ""
    radloom: str = ""
    """The version that wrote the file; empty in files written by hand."""
    stages: tuple[StageConfig, ...] = ModelField(min_length=1)


@dataclass(frozen=True)
class Workflow:
    """Stages in the order in which every study meets them."""

    name: str
    stages: tuple[Stage, ...]

    def resolved(self) -> str:
        """The workflow as YAML with every parameter spelled out; `load_workflow` reads it back."""
        config = {
            "name": self.name,
            "radloom": __version__,
            "stages": [
                {"stage": stage.name, "parameters": to_jsonable_python(_parameters(stage))}
                for stage in self.stages
            ],
        }
        return str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def load_workflow(
    name_or_path: str | Path = "head",
    *,
    fast: bool = False,
    only: Sequence[str] = (),
    parameters: Mapping[str, Mapping[str, JsonValue]] | None = None,
) -> Workflow:
    """The workflow of a shipped name (``head``) or of a YAML file.

    Args:
        name_or_path: a file under ``pipelines/workflows`` without its ending, or a path.
        fast: sets `fast` in every stage that has such a parameter.
        only: stage names to keep, in the file's order; empty keeps all.
        parameters: stage name -> parameters that replace those of the file.

    Raises:
        ConfigError: no such workflow, not YAML, an unknown key, stage or parameter, or a value of
            the wrong type. The message names the nearest valid word.
    """
    text, where, folder = _read(name_or_path)
    config = _parse(text, where)
    wanted = parameters or {}
    for name in (*only, *wanted):
        _require_known(name, [entry.stage for entry in config.stages], f"a stage of {where}")
    stages = tuple(
        make_stage(
            entry.stage,
            {**entry.parameters, **wanted.get(entry.stage, {})},
            fast=fast,
            folder=folder,
            where=where,
        )
        for entry in config.stages
        if not only or entry.stage in only
    )
    return Workflow(config.name, stages)


def make_stage(
    name: str,
    parameters: Mapping[str, JsonValue] | None = None,
    *,
    fast: bool = False,
    folder: Path = Path(),
    where: str = "arguments",
) -> Stage:
    """One stage by its name in `STAGES`, its parameters checked against the fields of its class.

    Raises:
        ConfigError: an unknown stage or parameter, or a value of the wrong type.
    """
    _require_known(name, STAGES, f"a stage in {where}")
    module, _, attribute = STAGES[name].partition(":")
    cls = getattr(import_module(module), attribute)
    public = _public_fields(cls)
    values = dict(parameters or {})
    for key in values:
        _require_known(key, public, f"a parameter of stage {name} in {where}")
    if fast and "fast" in public:
        values["fast"] = True
    checked = _check_types(cls, public, values, f"stage {name} in {where}")
    return cast("Stage", cls(**{key: _rooted(value, folder) for key, value in checked.items()}))


def _public_fields(cls: type) -> dict[str, Field[Any]]:
    return {f.name: f for f in fields(cls) if f.init and not f.name.startswith("_")}


def _parameters(stage: Stage) -> dict[str, Any]:
    return {name: getattr(stage, name) for name in _public_fields(type(stage))}


def _check_types(
    cls: type, public: Mapping[str, Field[Any]], values: Mapping[str, JsonValue], where: str
) -> dict[str, Any]:
    """The values as the types of the class's fields: JSON's view, so that strict takes paths."""
    hints = get_type_hints(cls)
    model = create_model(
        cls.__name__,
        __config__=ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True),
        **cast("Any", {name: (hints[name], _default(field)) for name, field in public.items()}),
    )
    try:
        checked = model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None
    return {name: getattr(checked, name) for name in values}


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return ... if field.default_factory is MISSING else ModelField(default=None)


def _rooted(value: Any, folder: Path) -> Any:
    """`value` with the paths in it taken relative to `folder`."""
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, tuple | list):
        return type(value)(_rooted(item, folder) for item in value)
    return value


def _read(name_or_path: str | Path) -> tuple[str, str, Path]:
    """Text, name for messages, and folder of a workflow."""
    path = Path(name_or_path)
    if path.suffix.lower() in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"expected a workflow file, got <{path}>, which is not there")
        return path.read_text(encoding="utf-8"), f"<{path.name}>", path.resolve().parent
    shipped = resources.files("radloom.pipelines.workflows")
    names = sorted(
        item.name.removesuffix(".yaml") for item in shipped.iterdir() if item.name.endswith(".yaml")
    )
    _require_known(str(name_or_path), names, "a workflow (or the path of a .yaml file)")
    text = shipped.joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    return text, f"workflow {name_or_path}", Path()


def _parse(text: str, where: str) -> WorkflowConfig:
    try:
        content = yaml.safe_load(text)
        config = WorkflowConfig.model_validate_json(json.dumps(content))
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"{where}: expected plain YAML, got: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None
    names = [entry.stage for entry in config.stages]
    if names[0] != "ingest":
        raise ConfigError(f"{where}: expected the first stage to be ingest, got {names[0]!r}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: expected each stage once, got {twice[0]!r} more than once")
    return config


def _require_known(word: str, known: Mapping[str, Any] | Sequence[str], what: str) -> None:
    if word not in known:
        near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(known) or "none"
        raise ConfigError(f"expected {what}, got {word!r}: {hint}Known: {listed}")


def _explain(error: ValidationError) -> str:
    """The first thing that pydantic found, as: expected, got, where."""
    first = error.errors()[0]
    at = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "extra_forbidden":
        known = (
            StageConfig.model_fields if "stages" in first["loc"] else WorkflowConfig.model_fields
        )
        word = str(first["loc"][-1])
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown key {at!r}: {hint}Known: {', '.join(known)}"
    return f"{at}: {first['msg']}, got {first['input']!r}"


def __getattr__(name: str) -> Any:
    """`HeadWorkflow`, once somebody asks for it: a run without networks must not wait for MONAI."""
    if name != "HeadWorkflow":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from radloom.pipelines.bundle_workflow import HeadWorkflow

    return HeadWorkflow
