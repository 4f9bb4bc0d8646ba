"""What failures of an endpoint mean: of the connection, by status, and those that a server sends as a success."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from swarm.agents.llm.endpoint import LlmEndpoint
from swarm.agents.llm.retry import CallError, ContextError, retry_after
from swarm.experiments.engines.base import reason_in
from swarm.memory.text import clean

if TYPE_CHECKING:
    import openai

RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
MAX_REASON_CHARS = 160
"""Characters of a server's reason that an error shows."""

# How servers say that a prompt is longer than the model's context: OpenAI and vLLM, llama.cpp, LM Studio, Ollama, TGI,
# SGLang, Mistral, Gemini, Groq, Anthropic, xAI.
_TOO_LONG = re.compile(
    r"context.?(?:length|size|window)|context_length_exceeded|maximum (?:model|prompt|input|context) length"
    r"|longer than the (?:maximum|model)|prompt (?:is )?too long|input (?:is )?too long|too many (?:input )?tokens"
    r"|reduce the length|max_new_tokens. must be|maximum number of tokens"
    r"|request (?:is )?too large|too large for model",
    re.IGNORECASE,
)


def explain(error: openai.OpenAIError, endpoint: LlmEndpoint) -> CallError:
    """What an error of the client library means."""
    import openai

    where = endpoint.url
    if isinstance(error, openai.APITimeoutError):
        return CallError(f"{where} did not answer in time.", outcome="timeout", retry=True, billed=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        # Refused before anything was sent: nothing can have been counted.
        refused = type(cause).__name__ == "ConnectError"
        return CallError(
            f"no connection to {where} ({endpoint.without_key(str(cause))[:120]}).",
            "Is the server running?",
            outcome="connection",
            retry=True,
            billed=not refused,
        )
    if isinstance(error, openai.APIStatusError):
        headers, message = error.response.headers, reason_in(error.body) or error.message
        return _of_status(error.status_code, message, error.body, headers, endpoint)
    return not_ours(endpoint, error)


def not_ours(endpoint: LlmEndpoint, reason: object) -> CallError:
    """An answer that is none of this protocol."""
    said = clean(endpoint.without_key(str(reason)), MAX_REASON_CHARS)
    return CallError(
        f"{endpoint.url} did not answer like an OpenAI-compatible server ({said}).",
        "Check the URL; it usually ends in /v1.",
        outcome="garbled",
        retry=True,
        billed=True,
    )


def error_in(body: Mapping[str, Any]) -> object:
    """The error that a body of status 200 carries, beside the choices or in the first of them; None without one."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return body.get("error") or (first.get("error") if isinstance(first, Mapping) else None) or None


def of_body(body: Mapping[str, Any], endpoint: LlmEndpoint) -> CallError:
    """What a body of status 200 that holds no answer means: its own code counts, if it has one."""
    error = error_in(body)
    code = error.get("code", error.get("status")) if isinstance(error, Mapping) else None
    said = reason_in(error)
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    if isinstance(code, int) and 400 <= code < 600:
        return _of_status(code, said, error, {}, endpoint)
    return _too_long(said, str(error), endpoint) or not_ours(endpoint, said or "no choices")


def _too_long(message: str, everything: str, endpoint: LlmEndpoint) -> ContextError | None:
    if not _TOO_LONG.search(f"{message} {everything}"):
        return None
    said = clean(endpoint.without_key(message), MAX_REASON_CHARS)
    return ContextError(f"the prompt is too long for {endpoint.url} ({said}).", "Lower llm_prompt_chars.")


def _of_status(status: int, message: str, body: object, headers: Mapping[str, str], endpoint: LlmEndpoint) -> CallError:
    where = endpoint.url
    problem, remedy, outcome = "", "", f"http_{status}"
    if 300 <= status < 400:
        target = clean(endpoint.without_key(headers.get("location", "elsewhere")), MAX_REASON_CHARS)
        problem = f"{where} redirects to {target} ({status}), where nothing is sent unasked."
        remedy = "Give --llm the address that answers."
    elif status in (401, 403):
        problem, remedy = f"{where} refuses the key ({status}).", "Check the key."
    elif status == 404:
        problem = f"{where} knows no such address or model {endpoint.model!r} (404)."
        remedy = "Check the URL (it usually ends in /v1) and --llm-model."
    elif "insufficient_quota" in str(body):
        problem, outcome = f"the account at {where} has no credit left.", "quota"
    if problem:
        return CallError(problem, remedy, outcome=outcome, fatal=True)
    if status in (400, 413, 422) and (long := _too_long(message, str(body), endpoint)) is not None:
        return long
    return CallError(
        f"{where} answers {status}: {clean(endpoint.without_key(message), MAX_REASON_CHARS)}",
        outcome=outcome,
        retry=status in RETRIED_STATUSES or status >= 500,
        retry_after=retry_after(headers.get("retry-after")),
    )
