"""With what, on what and with which settings it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from swarm.orchestrator.pages.blocks import Block, Cell, Code, Columns, Facts, Heading, Num, Table
from swarm.orchestrator.pages.entities import moment
from swarm.orchestrator.views.source import Source, TooMuchError

TITLE = "Environment"
PLACE = 120
_ENVIRONMENTS = """SELECT e.data, COUNT(*) AS trials FROM trials t JOIN environments e ON e.id = t.environment_id
WHERE t.campaign_id = {campaign} GROUP BY e.id, e.data ORDER BY COUNT(*) DESC"""

_ANY = """SELECT e.data FROM environments e ORDER BY e.id DESC"""


def blocks(source: Source) -> Sequence[Block]:
    """What is needed to run it again."""
    return [*_machines(source), *_models(source), *_settings(source)]


def _machines(source: Source) -> list[Block]:
    try:
        rows = source.rows(_ENVIRONMENTS, 20)
    except TooMuchError:
        rows = source.rows(_ANY, 20)
    found: list[Block] = []
    for row in rows:
        data = _document(row["data"])
        if len(rows) > 1 and "trials" in row:
            found.append(Heading(f"{row['trials']:,} trials"))
        found.append(Facts(facts(data)))
    return found


def facts(data: Mapping[str, Any]) -> dict[str, Cell]:
    """An environment as names and values."""
    return {
        "Device": data.get("device"),
        "Platform": data.get("platform"),
        "Python": data.get("python"),
        "Versions": ", ".join(f"{name} {version}" for name, version in (data.get("versions") or {}).items()),
        "BLAS": data.get("blas"),
        "Git revision": Code(data["git_revision"]) if data.get("git_revision") else None,
        "Code version": Code(data["code_version"]) if data.get("code_version") else None,
    }


def _models(source: Source) -> list[Block]:
    columns: Columns = {
        "Model": lambda info: info["name"],
        "Family": lambda info: info.get("family"),
        Num("Layers"): lambda info: info.get("n_layers"),
        Num("Heads"): lambda info: info.get("n_heads"),
        Num("KV heads"): lambda info: info.get("n_kv_heads"),
        Num("Head size"): lambda info: info.get("head_dim"),
        "Attention scale": lambda info: info.get("scale_kind"),
        "Weights": lambda info: Code(str(info.get("digest", ""))[:12]),
    }
    return [Table.of("Models", source.infos.values(), columns)] if source.infos else []


def _settings(source: Source) -> list[Block]:
    campaign = source.campaign
    shown: dict[str, Cell] = {
        "Seed": campaign.seed,
        "Started": moment(campaign.created_at),
        "Ended": moment(campaign.finished_at),
        "Budget": ", ".join(f"{k} {v:g}" for k, v in campaign.budget.model_dump().items() if v is not None),
    }
    text = json.dumps(campaign.settings, indent=1, sort_keys=True, ensure_ascii=False)
    return [Facts(shown), Facts({"Settings": Code(text, block=True)})]


def _document(value: Any) -> dict[str, Any]:
    """A JSON column as SQL gives it: text on SQLite, a mapping on PostgreSQL."""
    found = json.loads(value) if isinstance(value, str) else value
    return dict(found) if isinstance(found, dict) else {}
