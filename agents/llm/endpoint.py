"""Where the LLM is: from `--llm` and the environment to an address, a model and a key. Connects to nothing."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from swarm.agents.llm.settings import LlmSettings
from swarm.kernels.errors import UsageError

OPENAI = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4.1-mini"
LOCAL_MODEL = "qwen2.5-coder-0.5b"
OWN_KEY = "SWARM_LLM_KEY"
OPENAI_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Endpoint:
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


def endpoint(settings: LlmSettings, environment: Mapping[str, str] = os.environ) -> Endpoint:
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
        return Endpoint(OPENAI, settings.llm_model or DEFAULT_MODEL, key)
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
    return Endpoint(settings.llm.rstrip("/"), settings.llm_model or "", own)


def local_model(settings: LlmSettings) -> str | None:
    """The model of `--llm local[:MODEL]`; None for any other endpoint."""
    if not settings.is_local:
        return None
    return settings.llm.partition(":")[2] or settings.llm_model or LOCAL_MODEL


def hint(settings: LlmSettings, environment: Mapping[str, str] = os.environ) -> str:
    """A line for people who have a key and did not ask for an LLM: a key is no licence to send anything."""
    if settings.llm == "none" and (environment.get(OPENAI_KEY) or environment.get(OWN_KEY)):
        return "A key was found, but nothing leaves this machine without --llm (e.g. --llm openai)."
    return ""
