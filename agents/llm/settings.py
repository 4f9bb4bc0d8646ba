"""How the LLM is called. Knows no endpoint and no role."""

from __future__ import annotations

from pydantic import Field

from swarm.kernels.spec import FrozenModel


class LlmSettings(FrozenModel):
    """Settings of the LLM minds.

    `llm` is none, openai, the base URL of an OpenAI-compatible server, or local[:MODEL]; `llm_model` the model's
    name there. Prices are in USD per million tokens, for models that the built-in table does not know. Times are in
    seconds: `llm_timeout` is for one call, `llm_patience` what the end of a campaign waits for the last summary.
    """

    llm: str = "none"
    llm_model: str | None = None
    llm_timeout: float = Field(default=120.0, gt=0, le=3_600)
    llm_patience: float = Field(default=60.0, ge=0, le=3_600)
    llm_attempts: int = Field(default=3, ge=1, le=10)
    llm_output_tokens: int = Field(default=1_200, ge=64, le=32_000)
    llm_prompt_chars: int = Field(default=12_000, ge=2_000, le=400_000)
    llm_concurrency: int = Field(default=2, ge=1, le=16)
    llm_temperature: float | None = Field(default=None, ge=0, le=2)
    llm_price_in: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    llm_price_out: float | None = Field(default=None, ge=0, allow_inf_nan=False)
