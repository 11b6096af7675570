"""The models that ship inside: published shapes, each with its source, and some round ones for questions about size."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec
import yaml

from myriarch.errors import SpecError
from myriarch.spec.base import Spec
from myriarch.spec.model import Model
from myriarch.spec.problems import did_you_mean, listed


class _File(Spec, frozen=True, kw_only=True):
    format: Literal[1]
    models: tuple[Model, ...]


@functools.cache
def models() -> Mapping[str, Model]:
    """All models by name, in the order of the file. Read once, on the first call."""
    text = importlib.resources.files("myriarch.spec").joinpath("data", "models.yaml").read_text("utf-8")
    # libyaml where it is there: ten times faster. The file is ours and has none of YAML 1.1's traps.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    file = msgspec.convert(yaml.load(text, loader), _File)
    return MappingProxyType({model.name: model for model in file.models})


def lookup_model(name: str) -> Model:
    """The model called `name`, however it is written: `Llama-3.1-405B` and `llama3.1-405b` are one.

    Raises SpecError with the nearest names when the catalogue has none such.
    """
    model = find_model(name)
    if model is None:
        raise SpecError(unknown_model(name), hint=f"the catalogue has {listed(models(), limit=60)}")
    return model


def find_model(name: str) -> Model | None:
    """The model called `name`; None when there is none."""
    return models().get(name) or _by_key().get(_key(name))


def unknown_model(name: str) -> str:
    """What to tell somebody who wrote the name of a model that is not there."""
    folded = name.casefold().replace(".", "-").replace("_", "-")
    family = [known for known in models() if known.startswith(folded)]
    near = f" use one of {listed(family)}, or" if family else did_you_mean(folded, models())
    return f"model `{name}` is not in the catalogue;{near} write a model file"


@functools.cache
def _by_key() -> Mapping[str, Model]:
    return {_key(name): model for name, model in models().items()}


def _key(name: str) -> str:
    """Letters and digits only: people set hyphens and points as they like."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
