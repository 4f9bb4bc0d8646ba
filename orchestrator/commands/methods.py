"""`swarm methods`: what can be put in a cache, straight from the methods themselves."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typing_extensions import TypedDict

from swarm.kernels import plugins
from swarm.kernels.errors import UnknownNameError
from swarm.orchestrator.console import Column, listing
from swarm.orchestrator.options import Json

PANEL = "Methods and models"


def command(
    name: Annotated[str | None, typer.Argument(help="Only this method.", show_envvar=False)] = None,
    json: Json = False,
) -> None:
    """List the quantization methods: parameters, exact bits per value, what each needs, source.

    Learned scaling is fitted on calibration text when it is first used. Keys of models that have a key bias may have it
    subtracted, and first and last layers may get other bits, whatever the method.

    Example: `swarm methods affine`
    """
    from swarm.kernels.quantizers import base

    known = plugins.names(base.PACKAGE)
    if name is not None and name not in known:
        raise UnknownNameError("method", name, ", ".join(known))
    rows = [_row(each) for each in ([name] if name else base.methods())]
    listing(
        rows,
        [
            Column("name", "method"),
            Column("bits", show=_choices),
            Column("group_sizes", "group", show=_choices),
            Column("axes", "axis", show=_choices),
            Column("rotations", "rotation", show=_choices),
            Column("scalings", "scaling", show=_choices),
            Column("formula", "bits/value"),
            Column("needs", show="; ".join),
            Column("source"),
            Column("summary"),
        ],
        as_json=json,
    )


class MethodRow(TypedDict):
    """A method with what it offers."""

    name: str
    summary: str
    formula: str
    source: str
    bits: list[int]
    group_sizes: list[int | None]
    axes: list[str]
    rotations: list[str]
    scalings: list[str]
    sides: list[str]
    needs: list[str]


def output() -> object:
    """What `--json` prints."""
    return list[MethodRow]


def _row(name: str) -> MethodRow:
    from swarm.kernels.quantizers import base

    method = base.method(name)
    offered = method.choices
    return {
        "name": method.name,
        "summary": method.summary,
        "formula": method.formula,
        "source": method.source,
        "bits": list(offered.bits),
        "group_sizes": list(offered.group_sizes),
        "axes": list(offered.axes),
        "rotations": list(offered.rotations),
        "scalings": list(offered.scalings),
        "sides": list(offered.sides),
        "needs": list(method.needs()),
    }


def _choices(values: list[Any]) -> str:
    return " ".join("-" if value is None else str(value) for value in values)
