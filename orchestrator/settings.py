"""The settings of a campaign: flag over SWARM_* variable over swarm.toml over default.

Names, ranges and formats are checked here; whether a model or a method exists, by those who load it.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from swarm.agents.llm.endpoint import LlmSettings
from swarm.agents.settings import LONG_PROTOCOLS, AgentSettings, Tokens, tokens
from swarm.experiments.corpora import BUNDLED
from swarm.experiments.spec import KERNEL_CONTEXTS, Device
from swarm.kernels.errors import UsageError
from swarm.orchestrator import toml
from swarm.orchestrator.asked import AskedTrial

TRIAL_SECONDS = 300.0
SHORT_TOKENS = 2048
"""Context up to which a trial's time suffices for its 16-bit run; longer ones get more in proportion."""
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip().lower())
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*([smhd]?)", "", value.strip().lower()).strip():
        raise ValueError("must be a duration such as 90, 45s, 10m or 1h30m")
    return sum(float(amount) * _UNITS[unit] for amount, unit in parts)


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Contexts = Annotated[tuple[Tokens, ...], NoDecode, BeforeValidator(_split), Field(min_length=1, max_length=8)]
# What the columns, clocks and random generators behind them hold.
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=1e9, allow_inf_nan=False)]
MAX_COUNT = 1_000_000_000
MAX_SPEND = 100_000_000_000
MAX_SEED = 2**63 - 1
MAX_SHAPE = 24
"""Characters of a shape's name, which ends names of metrics; these have 64 in a store."""


def _shares(text: str) -> dict[Device, int | None]:
    found: dict[Device, int | None] = {}
    for part in text.split(","):
        name, given, share = part.strip().partition("=")
        device = next((known for known in get_args(Device) if known == name), None)
        if device is None or device in found or (given and not (share.isdecimal() and 0 < int(share) <= MAX_COUNT)):
            known = ", ".join(get_args(Device))
            raise ValueError(f"must be one of {known}, or several with their shares of the trials: cuda=9,cpu=1")
        found[device] = int(share) if given else None
    if None in found.values() and any(found.values()):
        raise ValueError("must give each device a share of the trials, or none")
    return found


def _absolute(path: str) -> str:
    """A path as workers and later runs in other folders understand it."""
    return str(Path(path).expanduser().resolve())


def _is_path(name: str) -> bool:
    path = Path(name).expanduser()
    return (name.startswith((".", "~", "/")) and path.is_dir()) or (name.endswith(".gguf") and path.is_file())


class Settings(AgentSettings, LlmSettings, BaseSettings):
    """Everything a campaign can be told; what it ran with is stored in it. Keys of LLM providers are never here.

    `models` left out means the bundled models on this machine; `workers` one per core, or up to eight per GPU, as cores
    and memory allow, here or on the cluster; `device` what MLX computes on here, or several devices of a cluster, as in
    `cuda,cpu` or with shares of the trials `cuda=9,cpu=1`; `lag` the number of latest trials
    whose results a proposal does not see. On a GPU, kernels are timed at `kernel_contexts` tokens, for the layers of
    the models and for those of `shape`, a model that `swarm plan` knows. Times are in seconds. With
    `engine` trials start that engine with flags, one at a time unless `workers` says otherwise.
    """

    model_config = SettingsConfigDict(
        env_prefix="SWARM_", extra="forbid", frozen=True, env_ignore_empty=True, ser_json_inf_nan="strings"
    )

    store: str = "swarm.db"
    name: str | None = Field(default=None, max_length=80)
    budget: int = Field(default=330, ge=1, le=MAX_COUNT)
    models: Names | None = None
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    context: Annotated[int, BeforeValidator(tokens)] = Field(default=512, ge=2, le=MAX_COUNT)
    engine: str | None = None
    corpus: str | None = None
    workers: int | None = Field(default=None, ge=1, le=100_000)
    ray_address: str | None = None
    device: str | None = None
    lag: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    trial_timeout: Seconds = TRIAL_SECONDS
    time_limit: Seconds | None = None
    max_tokens: int | None = Field(default=None, ge=0, le=MAX_SPEND)
    max_usd: float | None = Field(default=None, ge=0, le=MAX_SPEND, allow_inf_nan=False)
    agenda: str | None = None
    protocols: Annotated[Names, Field(min_length=1)] = LONG_PROTOCOLS
    kernel_contexts: Contexts = KERNEL_CONTEXTS
    shape: str | None = Field(default=None, min_length=1, max_length=MAX_SHAPE)
    rehearsal: str | None = None
    asked: tuple[AskedTrial, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _time_for_long_captures(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The first trial at a long context makes the 16-bit run that the others share; an engine's are all as long."""
        try:
            long = TypeAdapter(Tokens).validate_python(data.get("context" if data.get("engine") else "long"))
        except ValidationError:  # none is wanted, or the field itself says what is wrong
            return data
        return {"trial_timeout": TRIAL_SECONDS * max(1.0, long / SHORT_TOKENS), **data}

    @field_validator("models")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("must name each model once, separated by commas")
        return value if value is None else tuple(_absolute(name) if _is_path(name) else name for name in value)

    @field_validator("device")
    @classmethod
    def _known_devices(cls, value: str | None) -> str | None:
        if value is not None:
            _shares(value)
        return value

    @field_validator("corpus")
    @classmethod
    def _for_every_worker(cls, value: str | None) -> str | None:
        return value if not value or value in BUNDLED else _absolute(value)

    @field_validator("agenda")
    @classmethod
    def _where_it_is(cls, value: str | None) -> str | None:
        return _absolute(value) if value and Path(value).expanduser().is_file() else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then swarm.toml."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, toml.settings())

    @property
    def devices(self) -> dict[Device, int | None]:
        """The devices that were asked for, in order, with their shares of the trials where those were given."""
        return {} if self.device is None else _shares(self.device)

    def for_agents(self) -> AgentSettings:
        """The part that the agents read."""
        return AgentSettings.model_validate({name: getattr(self, name) for name in AgentSettings.model_fields})

    def for_llm(self) -> LlmSettings:
        """The part that the LLM's roles read."""
        return LlmSettings.model_validate({name: getattr(self, name) for name in LlmSettings.model_fields})

    def stored(self) -> dict[str, Any]:
        """The form in which a campaign keeps them."""
        return self.model_dump(mode="json", exclude={"store"})


def load(**flags: object) -> Settings:
    """The effective settings; flags that are None count as not given.

    Raises:
        UsageError: an unknown key in swarm.toml or a value out of range, naming where it came from.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    _refuse_unknown(given, "the options")
    _refuse_unknown(toml.settings(), toml.FILE)
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _usage(error, given) from error


def restore(stored: dict[str, Any], store: str, **flags: object) -> Settings:
    """The settings of a campaign that goes on, with the few flags that may change between two runs of it."""
    given = {key: value for key, value in flags.items() if value is not None}
    known = {key: value for key, value in stored.items() if key in Settings.model_fields}
    try:
        return Settings(**{**known, "store": store, **given})
    except ValidationError as error:
        raise _usage(error, {**known, **given}) from error


def store_url(flag: str | None) -> str:
    """The store that a command reads: its flag, SWARM_STORE, swarm.toml, or swarm.db here."""
    return load(store=flag).store


def _refuse_unknown(document: dict[str, Any], where: str) -> None:
    for key in document:
        if key not in Settings.model_fields:
            near = get_close_matches(key, Settings.model_fields, n=1)
            known = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(Settings.model_fields))}."
            raise UsageError(f"unknown key {key!r} in {where}.", known)


def _usage(error: ValidationError, given: dict[str, object]) -> UsageError:
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0]) if first["loc"] else "settings"
    flag, variable = f"--{key.replace('_', '-')}", f"SWARM_{key.upper()}"
    if key in given:
        where = flag
    elif variable in os.environ:
        where = variable
    else:
        where = f"{key} in {toml.FILE}"
    reason = str(first["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    value = first.get("input")
    return UsageError(f"{where}={value if not isinstance(value, dict) else '?'}: {reason}.", "Correct the value.")
