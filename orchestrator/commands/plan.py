"""`swarm plan`: what fits on a machine, by arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.experiments.sizing.units import parse_gigabytes, parse_tokens, size, tokens
from swarm.orchestrator.console import Column, emit_json, listing, rate, say
from swarm.orchestrator.options import Json, StoreUrl

if TYPE_CHECKING:
    from swarm.experiments.sizing.learned import LearnedMemory, LearnedRates, MeasuredRun
    from swarm.experiments.sizing.machines import Machine
    from swarm.experiments.sizing.method import KVMethod
    from swarm.experiments.sizing.plan import Cost, MethodPlan, Plan
    from swarm.experiments.sizing.shape import ModelShape

PANEL = "Methods and models"
TOO_LARGE, BEYOND = "*", "~"


def command(
    model: Annotated[
        str,
        typer.Option(
            metavar="M", help="Name as people write it, Hugging Face id, config.json, model folder or GGUF file."
        ),
    ],
    memory: Annotated[
        str | None, typer.Option(metavar="GB", help="Memory, such as 64.  [default: what this machine has]")
    ] = None,
    machine: Annotated[
        str | None, typer.Option(metavar="NAME", help="Apple chip or GPU: 'm4 max', 'rtx 4090', '2x h200'.")
    ] = None,
    bandwidth: Annotated[float | None, typer.Option(metavar="GB/S", help="Memory bandwidth.")] = None,
    kv: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD",
            help="KV method: affine, affine4/g32, q8_0,q4_0 (keys,values), or bits per value. Repeatable.  "
            "[default: every method]",
        ),
    ] = None,
    context: Annotated[list[str] | None, typer.Option(metavar="N", help="Tokens, such as 128K. Repeatable.")] = None,
    weights_bits: Annotated[
        float | None, typer.Option(metavar="B", help="Bits per weight.  [default: as on disk, else 4.5]")
    ] = None,
    sinks: Annotated[int, typer.Option(min=0, help="First tokens kept in 16 bit.")] = 0,
    recent: Annotated[int, typer.Option(min=0, help="Recent tokens kept in 16 bit.")] = 0,
    overhead: Annotated[
        float | None, typer.Option(metavar="GIB", min=0, help="Memory beside weights and cache.  [default: estimated]")
    ] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Say what fits: weights, KV cache per method and context, largest context, predicted decode speed.

    For this machine, decode rates and memory that engine trials and probes in the store measured correct the
    prediction.

    Examples: `swarm plan --model "llama 3.1 8b" --machine "m4 max" --memory 64`,
    `swarm plan --model ./config.json --memory 24 --kv affine --context 128K`
    """
    from pathlib import Path

    from swarm.experiments.sizing import models, plan
    from swarm.experiments.sizing.learned import learn, learn_memory

    shape = models.find(model)
    known = _measured(store) if machine is None and memory is None else []
    own = [one for one in known if one.model in (model, shape.name, str(Path(model).expanduser().resolve()))]
    # What was measured says more than the estimate, and less than who asks.
    held = learn_memory(known, own, plan.overhead(shape)) if overhead is None else None
    given = None if overhead is None else round(overhead * 2**30)
    report = plan.make(
        shape,
        _methods(shape, kv or [], sinks, recent),
        machine=_machine(machine, memory, bandwidth),
        contexts=[parse_tokens(text) for text in context or []],
        weights_bits=weights_bits,
        overhead_bytes=given if held is None else held.overhead_bytes,
    )
    rates = learn(known)
    if json:
        emit_json({**_json(report), **_corrections(report, own, rates, held)})
    else:
        _show(report, held)
        _show_measured(report, own, rates)


def _machine(name: str | None, memory: str | None, bandwidth: float | None) -> Machine:
    from swarm.experiments.sizing import machines

    gigabytes = None if memory is None else parse_gigabytes(memory)
    if name is not None:
        return machines.find(name, gigabytes, bandwidth)
    return machines.this(bandwidth) if gigabytes is None else machines.of_memory(gigabytes, bandwidth)


def _methods(shape: ModelShape, wanted: list[str], sinks: int, recent: int) -> list[KVMethod]:
    """16 bit for comparison, and what was asked for: a bare method name means all its bits and groups."""
    from swarm.experiments.sizing import method
    from swarm.kernels import plugins
    from swarm.kernels.quantizers import base
    from swarm.kernels.spec import variants

    known = plugins.names(base.PACKAGE)
    found = {"none": method.parse("none")}
    for text in wanted or base.methods():
        if text in known:
            specs = variants(text) if wanted else (method.default(text, shape.dims),)
            entries = [method.both(spec, sink_tokens=sinks, residual_window=recent) for spec in specs]
        else:
            entries = [method.parse(text, sink_tokens=sinks, residual_window=recent)]
        found |= {entry.label: entry for entry in entries if text != "none"}
    return list(found.values())


def _show(report: Plan, held: LearnedMemory | None) -> None:
    model, weights = report.model, report.weights
    count = f"{model.parameters / 1e9:.3g}B weights, " if model.parameters else ""
    trained = f", trained to {tokens(model.max_context)} tokens" if model.max_context else ""
    say(f"{model.name} ({model.family}): {count}{len(model.layers)} layers{trained}", style="bold")
    for note in report.notes:
        say(f"  {note}")
    bits = "" if weights.bits is None else f" at {weights.bits:.3g} bits"
    assumed = " (assumed; --weights-bits changes it)" if weights.assumed else ""
    source = "estimate" if held is None else _measured_memory(held)
    say(f"  weights {size(weights.n_bytes)}{bits}{assumed}, overhead {size(report.overhead_bytes)} ({source})")
    machine = report.machine
    if machine is not None:
        speed = f", {machine.bandwidth / 1e9:g} GB/s" if machine.bandwidth else ""
        usable = "" if machine.usable == machine.memory else f", {size(machine.usable)} for a model"
        say(f"{machine.name}{usable}{speed}", style="bold")
        if machine.note:
            say(f"  {machine.note}")
    say()
    contexts = [cost.context for cost in report.methods[0].costs]
    method = Column("label", "KV method")
    memory = [
        method,
        Column("bits", "bits per value", digits=4),
        Column("per_token", "per token", right=True),
        *(Column(f"kv_{n}", f"KV at {tokens(n)}", right=True) for n in contexts),
        Column("largest", "largest context", right=True),
    ]
    rows = [_row(row) for row in report.methods]
    listing(rows, memory)
    if any(cost.tokens_per_second for row in report.methods for cost in row.costs):
        say()
        say("Predicted decode speed (tok/s): memory bandwidth over the bytes one token reads; a machine reaches less.")
        listing(rows, [method, *(Column(f"speed_{n}", f"at {tokens(n)}", show=rate, right=True) for n in contexts)])
    _legend(report)


def _measured_memory(held: LearnedMemory) -> str:
    """Where the overhead comes from, in words."""
    of = "of this model" if held.own else "of other models, in proportion to estimates"
    return f"measured {of} in {held.n} run{'s' if held.n > 1 else ''}{_evidence(held)}"


def _evidence(learned: LearnedRates | LearnedMemory) -> str:
    """Until when runs were measured, and how well each is predicted from the others."""
    until = f" until {learned.latest:%Y-%m-%d}" if learned.latest else ""
    return until + ("" if learned.error is None else f", each predicted from the others to {learned.error:.0%}")


def _measured(store: str | None) -> list[MeasuredRun]:
    """What the store knows of this machine; nothing where there is no store."""
    from swarm.memory.errors import StoreError
    from swarm.orchestrator.measured_runs import measured_runs
    from swarm.orchestrator.views.source import open_store

    try:
        with open_store(store) as opened:
            return measured_runs(opened)
    except StoreError:
        if store is not None:
            raise
        return []


def _corrections(
    report: Plan, own: list[MeasuredRun], rates: LearnedRates | None, held: LearnedMemory | None = None
) -> dict[str, Any]:
    """What was measured of this model, what that says of rates and memory, and rates as it corrects them."""
    corrected = {
        row.label: {
            str(cost.context): rates.tokens_per_second(report.weights.active_bytes + cost.kv_bytes)
            for cost in row.costs
            if cost.fits is not False
        }
        for row in report.methods
        if rates is not None
    }
    return {
        "measured": [one.model_dump(mode="json") for one in own],
        "learned": None if rates is None else rates.model_dump(mode="json"),
        "learned_memory": None if held is None else held.model_dump(mode="json"),
        "corrected": corrected,
    }


def _show_measured(report: Plan, own: list[MeasuredRun], rates: LearnedRates | None) -> None:
    if rates is None:
        return
    found = _corrections(report, own, rates)
    say()
    say(
        f"Decode speed (tok/s) corrected by {rates.n} rates measured{_evidence(rates)}: "
        f"{1e3 * rates.seconds:.3g} ms per token and {rates.bandwidth / 1e9:.3g} GB/s."
    )
    contexts = [cost.context for cost in report.methods[0].costs]
    columns = [Column(f"at_{n}", f"at {tokens(n)}", show=rate, right=True) for n in contexts]
    rows = [
        {"label": label, **{f"at_{n}": by_context.get(str(n)) for n in contexts}}
        for label, by_context in found["corrected"].items()
    ]
    listing(rows, [Column("label", "KV method"), *columns])
    if found["measured"]:
        say()
        say("Measured of this model:")
        listing(
            found["measured"],
            [
                Column("label", "KV method"),
                Column("context", show=tokens, right=True),
                Column("tokens_per_second", "tok/s", show=rate, right=True),
                Column("memory_bytes", "memory", show=size, right=True),
                Column("trial", right=True),
                Column("measured_at", "date"),
            ],
        )


def _size(n_bytes: float) -> str:
    """A size without its space, where a narrow table would break it."""
    return size(n_bytes).replace(" ", "")


def _row(row: MethodPlan) -> dict[str, Any]:
    cells: dict[str, Any] = {"label": row.label, "bits": row.bits_per_value, "per_token": _size(row.bytes_per_token)}
    for cost in row.costs:
        cells[f"kv_{cost.context}"] = _kv(cost)
        cells[f"speed_{cost.context}"] = cost.tokens_per_second
    return {**cells, "largest": _largest(row)}


def _kv(cost: Cost) -> str:
    marks = (TOO_LARGE if cost.fits is False else "") + (BEYOND if cost.beyond_trained else "")
    return _size(cost.kv_bytes) + marks


def _largest(row: MethodPlan) -> str:
    if row.unlimited:
        return "any"
    if row.largest_context is None:
        return "-"
    return (tokens(row.largest_context) if row.largest_context else "none") + (BEYOND if row.beyond_trained else "")


def _legend(report: Plan) -> None:
    costs = [cost for row in report.methods for cost in row.costs]
    if any(cost.fits is False for cost in costs):
        say(f"{TOO_LARGE} does not fit beside the weights")
    trained = report.model.max_context
    if trained and any(row.beyond_trained or any(cost.beyond_trained for cost in row.costs) for row in report.methods):
        say(f"{BEYOND} beyond the trained window of {tokens(trained)}")
    for label, reason in report.refused.items():
        say(f"left out {label}: {reason}", style="dim")


def output() -> object:
    """What `--json` prints: the plan, with layers that are alike counted together."""
    from pydantic import Field

    from swarm.experiments.sizing import learned as rates
    from swarm.experiments.sizing.plan import Plan
    from swarm.experiments.sizing.shape import ModelShape
    from swarm.kernels.layer_shape import LayerShape

    class LayerGroup(LayerShape):
        count: int

    class GroupedShape(ModelShape):
        layers: Annotated[Any, Field(exclude=True)] = ()
        layer_groups: list[LayerGroup]

    class GroupedPlan(Plan):
        model: GroupedShape
        measured: list[rates.MeasuredRun]
        learned: rates.LearnedRates | None
        learned_memory: rates.LearnedMemory | None
        corrected: dict[str, dict[str, float]]

    return GroupedPlan


def _json(report: Plan) -> dict[str, Any]:
    layers = [{"count": count, **layer.model_dump(mode="json")} for layer, count in report.model.groups.items()]
    found = report.model_dump(mode="json", exclude={"model": {"layers"}})
    found["model"]["layer_groups"] = layers
    return found
