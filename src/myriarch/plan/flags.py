"""A chosen split as what a framework is started with, and read back from it.

Three are spoken: Megatron-LM (options), Megatron Bridge, which NeMo uses (overrides), torchtitan (a TOML file). What
a framework has no word for is refused with the reason; it is not dropped. Reading back what was written gives the same
recipe.
"""

from __future__ import annotations

from typing import Final, Literal

from myriarch.cost.split import Split
from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.plan import flags_megatron, flags_torchtitan
from myriarch.plan.recipe import Recipe, recipe_of

Framework = Literal["megatron-lm", "megatron-bridge", "torchtitan"]
FRAMEWORKS: Final[tuple[Framework, ...]] = ("megatron-lm", "megatron-bridge", "torchtitan")


class Launch(Value, frozen=True, kw_only=True):
    """What to start a framework with; model, data and learning rate are yours to add."""

    framework: Framework
    devices: int
    launcher: tuple[str, ...]
    """torchrun's options."""
    arguments: tuple[str, ...]
    """Behind the script."""
    file: str = ""
    """Text of the job file, where the framework reads one."""


def launch(
    split: Split,
    *,
    framework: Framework,
    layers: int,
    precision: str = "bf16",
    mixture: bool = False,
    devices_per_node: int = 8,
) -> Launch:
    """The split in the words of a framework. Raises SpecError, naming the field, for what it cannot express."""
    recipe = recipe_of(split, layers=layers, precision=precision, mixture=mixture)
    arguments: tuple[str, ...] = ()
    file = ""
    match framework:
        case "megatron-lm":
            arguments = flags_megatron.arguments_of(flags_megatron.options_of(recipe))
        case "megatron-bridge":
            arguments = flags_megatron.overrides_of(flags_megatron.options_of(recipe))
        case "torchtitan":
            file = flags_torchtitan.toml_of(flags_torchtitan.job_of(recipe))
    per_node = min(devices_per_node, recipe.devices)
    if recipe.devices % per_node:
        raise SpecError(
            f"{recipe.devices} devices are not whole nodes of {per_node}; give their number", path="devices_per_node"
        )
    return Launch(
        framework=framework,
        devices=recipe.devices,
        launcher=(f"--nnodes={recipe.devices // per_node}", f"--nproc-per-node={per_node}"),
        arguments=arguments,
        file=file,
    )


def read(launched: Launch, *, layers: int) -> Recipe:
    """The recipe that a launch says, for a model of so many layers."""
    match launched.framework:
        case "torchtitan":
            return flags_torchtitan.recipe_of_toml(launched.file, layers=layers)
        case "megatron-lm":
            options = flags_megatron.options_of_arguments(launched.arguments)
        case "megatron-bridge":
            options = flags_megatron.options_of_overrides(launched.arguments)
    return flags_megatron.recipe_of_options(options, devices=launched.devices, layers=layers)
