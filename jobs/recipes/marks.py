"""Hyper-parameters with their origin: an experiment is built from them, and a listing tells where each comes from."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from cluster.optim import Optim
from fpig_core.models import ModelConfig
from jobs.experiment import Experiment, TrainData

Mark = Literal["published", "inferred", "ours"]
MARKS: dict[Mark, str] = {
    "published": "stands in the paper or the authors' code, for this data set",
    "inferred": "published for another data set, or for the method's nearest relative",
    "ours": "our choice, where the sources are silent or we deviate",
}


class Value(NamedTuple):
    """One hyper-parameter. ``source`` says where it stands, or why it was chosen."""

    value: Any
    mark: Mark
    source: str


Values = Mapping[str, Value]
"""By the path of the setting in an ``Experiment``, such as ``optim.lr``."""


def published(source: str, settings: Mapping[str, Any]) -> dict[str, Value]:
    return {path: Value(value, "published", source) for path, value in settings.items()}


def inferred(source: str, settings: Mapping[str, Any]) -> dict[str, Value]:
    return {path: Value(value, "inferred", source) for path, value in settings.items()}


def ours(source: str, settings: Mapping[str, Any]) -> dict[str, Value]:
    return {path: Value(value, "ours", source) for path, value in settings.items()}


def carried(values: Values, *, origin: str) -> dict[str, Value]:
    """The values for another data set than ``origin``, where those published become inferred."""
    return {
        path: value._replace(mark="inferred", source=f"as for {origin}: {value.source}")
        if value.mark == "published"
        else value
        for path, value in values.items()
    }


def build(model: ModelConfig, data: TrainData, values: Values) -> Experiment:
    """The experiment with these values; ``global_batch`` and ``epochs`` must be among them."""
    settings = {path: value.value for path, value in values.items()}
    plain = Experiment(
        model=model,
        data=data,
        optim=Optim(),
        global_batch=settings["global_batch"],
        epochs=settings["epochs"],
    )
    for path, value in settings.items():
        plain = _with(plain, path, value)
    return plain


def read(experiment: Experiment, path: str) -> Any:
    """The value of a setting.

    Raises:
        AttributeError: the experiment has no such setting.
    """
    node: Any = experiment
    for name in path.split("."):
        node = getattr(node, name)
    return node


def _with(node: Any, path: str, value: Any) -> Any:
    """A dataclass with the setting at a path changed."""
    name, dot, rest = path.partition(".")
    return dataclasses.replace(node, **{name: _with(getattr(node, name), rest, value) if dot else value})
