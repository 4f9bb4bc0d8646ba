"""Which LLM is asked and how: the settings, and the address with its model and key.

Nothing here connects to anything.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic import Field

from swarm.kernels.errors import UsageError
from swarm.kernels.spec import FrozenModel

OPENAI = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4.1-mini"
LARGE_MODEL, SMALL_MODEL = "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"
"""Bundled models that can answer. The large one is the default where it is installed and there is a GPU, or CPU cores
enough that trials and an LLM that reads three times as slowly do not wait for each other."""

MIN_CORES_FOR_LARGE = 8
LOCAL_PROMPT_CHARS, LOCAL_OUTPUT_TOKENS, LOCAL_TIMEOUT, LOCAL_TEMPERATURE = 1_000, 200, 600.0, 0.7
"""What a local model gets. So many characters are some 400 tokens; without a temperature mlx-lm says the same again."""

OWN_KEY = "SWARM_LLM_KEY"
OPENAI_KEY = "OPENAI_API_KEY"


class LlmSettings(FrozenModel):
    """Settings of the LLM.

    `llm` is none, openai, the base URL of an OpenAI-compatible server, or local[:MODEL]; `llm_model` the model's
    name there. Prices are in USD per million tokens, for models that the built-in table does not know. Times are in
    seconds: `llm_timeout` is for one call, `llm_patience` what the end of a campaign waits for the last summary.
    `llm_prompt_chars` bounds what a role is told, and `llm_tools` lets it ask the store. What is None depends on the
    server: one of our own gets time, one short prompt after another and no tools, as small models on a CPU need.
    """

    llm: str = "none"
    llm_model: str | None = None
    llm_timeout: float | None = Field(default=None, gt=0, le=3_600)
    llm_patience: float = Field(default=60.0, ge=0, le=3_600)
    llm_attempts: int = Field(default=3, ge=1, le=10)
    llm_output_tokens: int | None = Field(default=None, ge=64, le=32_000)
    llm_prompt_chars: int | None = Field(default=None, ge=1_000, le=400_000)
    llm_tools: bool | None = None
    llm_concurrency: int | None = Field(default=None, ge=1, le=16)
    llm_temperature: float | None = Field(default=None, ge=0, le=2)
    llm_price_in: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    llm_price_out: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @property
    def is_local(self) -> bool:
        """Whether a server of our own is started."""
        return self.llm.partition(":")[0] == "local" and "://" not in self.llm

    @property
    def timeout(self) -> float:
        """Seconds that a call may take."""
        return self.llm_timeout if self.llm_timeout is not None else LOCAL_TIMEOUT if self.is_local else 120.0

    @property
    def prompt_chars(self) -> int:
        """Characters that a role is told at most."""
        default = LOCAL_PROMPT_CHARS if self.is_local else 12_000
        return self.llm_prompt_chars if self.llm_prompt_chars is not None else default

    @property
    def temperature(self) -> float | None:
        """The temperature that is asked for; None leaves it to the server."""
        default = LOCAL_TEMPERATURE if self.is_local else None
        return self.llm_temperature if self.llm_temperature is not None else default

    @property
    def tools(self) -> bool:
        """Whether roles may look things up."""
        return self.llm_tools if self.llm_tools is not None else not self.is_local

    @property
    def output_tokens(self) -> int:
        """Tokens of an answer at most."""
        default = LOCAL_OUTPUT_TOKENS if self.is_local else 1_200
        return self.llm_output_tokens if self.llm_output_tokens is not None else default

    @property
    def concurrency(self) -> int:
        """Questions at the same time at most."""
        return self.llm_concurrency if self.llm_concurrency is not None else 1 if self.is_local else 2


@dataclass(frozen=True)
class LlmEndpoint:
    """An OpenAI-compatible server. `model` may be empty: then the first that the server lists is used."""

    url: str
    model: str
    key: str = field(default="", repr=False)

    @property
    def loopback(self) -> bool:
        """Whether the server runs on this machine."""
        host = urlsplit(self.url).hostname or ""
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def without_key(self, text: str) -> str:
        """Text of the server's without the key, should it repeat it."""
        return text.replace(self.key, "[key]") if self.key else text


def endpoint(settings: LlmSettings, environment: Mapping[str, str] = os.environ) -> LlmEndpoint:
    """The endpoint of `--llm openai` or `--llm URL`.

    The key is $SWARM_LLM_KEY; for OpenAI itself also $OPENAI_API_KEY, which is never sent anywhere else.

    Raises:
        UsageError: not a URL, a URL that carries a password, or no key for OpenAI.
    """
    own = environment.get(OWN_KEY, "")
    if settings.llm == "openai":
        key = own or environment.get(OPENAI_KEY, "")
        if not key:
            raise UsageError("--llm openai needs a key.", f"Set {OPENAI_KEY} or {OWN_KEY}, or leave --llm out.")
        return LlmEndpoint(OPENAI, settings.llm_model or DEFAULT_MODEL, key)
    parts = urlsplit(settings.llm)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"--llm {settings.llm!r} is not none, openai, local[:MODEL] or a URL.",
            "Example: --llm http://localhost:11434/v1 --llm-model llama3.2",
        )
    if parts.username or parts.password:
        raise UsageError("the LLM's URL carries a password.", f"Give the key in {OWN_KEY}.")
    if parts.query or parts.fragment:
        raise UsageError(
            "the LLM's URL carries more than an address.", f"Leave what follows `?` out; a key goes in {OWN_KEY}."
        )
    return LlmEndpoint(settings.llm.rstrip("/"), settings.llm_model or "", own)


def local_model(settings: LlmSettings) -> str | None:
    """The model of `--llm local[:MODEL]`; None for any other endpoint."""
    if not settings.is_local:
        return None
    return settings.llm.partition(":")[2] or settings.llm_model or default_model()


def default_model() -> str:
    """The bundled model that answers where none is named: the large one where it is installed and not too slow."""
    from swarm.experiments import environment
    from swarm.experiments.models import registry
    from swarm.kernels import blas

    here = {info.name for info in registry.catalogue() if info.available}
    if {LARGE_MODEL, SMALL_MODEL} - here:
        return LARGE_MODEL if LARGE_MODEL in here else SMALL_MODEL
    blas.use_openblas(1)  # before the device is asked for, which imports MLX
    fast = environment.cores() >= MIN_CORES_FOR_LARGE or environment.device() != "cpu"
    return LARGE_MODEL if fast else SMALL_MODEL


def hint(settings: LlmSettings, environment: Mapping[str, str] = os.environ) -> str:
    """A line for people who have a key and did not ask for an LLM: a key is no licence to send anything."""
    if settings.llm == "none" and (environment.get(OPENAI_KEY) or environment.get(OWN_KEY)):
        return "A key was found, but nothing leaves this machine without --llm (e.g. --llm openai)."
    return ""
