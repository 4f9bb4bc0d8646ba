"""`swarm models`: which models there are and what their KV cache looks like."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.orchestrator.console import Column, listing
from swarm.orchestrator.options import Json

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

PANEL = "Methods and models"


def command(
    name: Annotated[
        str | None,
        typer.Argument(help="Only this model: a bundled name, a Hugging Face id or a local folder.", show_envvar=False),
    ] = None,
    json: Json = False,
) -> None:
    """List the models: family, what layers keep, heads, attention scale, key bias, and whether they are here.

    Examples: `swarm models`, `swarm models Qwen/Qwen3-0.6B`
    """
    from swarm.experiments.models import registry

    infos = [registry.describe(name)] if name else registry.catalogue()
    columns = [
        Column("name", "model"),
        Column("family"),
        Column("kept", "layers"),
        Column("n_heads", "heads", right=True),
        Column("n_kv_heads", "KV heads", right=True),
        Column("head_dim", "head size", right=True),
        Column("scale", "attention scale"),
        Column("key_bias", "key bias", show=_yes),
        Column("max_context", "max context", right=True),
        Column("here", "on this machine", show=_yes),
    ]
    listing([_row(info) for info in infos], columns, as_json=json)


def output() -> object:
    """What `--json` prints: the facts of each model, with those that the table words differently."""
    from swarm.experiments.models.base import ModelInfo

    class ModelRow(ModelInfo):
        scale: str
        kept: str
        window: str
        here: bool

    return list[ModelRow]


def _row(info: ModelInfo) -> dict[str, Any]:
    kinds = Counter(layer.kind for layer in info.layers)
    reach = {info.layers[number].reach for number in info.of_kind("windowed")}
    named = {kind: f"{kind} ({max(reach)})" if kind == "windowed" else kind for kind in kinds}  # type: ignore[type-var]
    kept = ", ".join(f"{count} {named[kind]}" for kind, count in kinds.most_common())
    limited = [window for window in info.windows if window is not None]
    window = f"{max(limited)} on {len(limited)} of {info.n_layers}" if limited else "none"
    scale = f"{info.scale_kind} {next((scale for scale in info.scales if scale), 1.0):.4g}"
    return {**info.model_dump(mode="json"), "scale": scale, "kept": kept, "window": window, "here": info.available}


def _yes(value: bool) -> str:
    return "yes" if value else "no"
