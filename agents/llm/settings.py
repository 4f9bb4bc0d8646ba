"""How the LLM is called. Knows no endpoint and no role."""

from __future__ import annotations

from pydantic import Field

from swarm.kernels.spec import FrozenModel


class LlmSettings(FrozenModel):
    """Settings of the LLM minds.

    `llm` is none, openai, the base URL of an OpenAI-compatible server, or local[:MODEL]; `llm_model` the model's
    name there. Prices are in USD per million tokens, for models that the built-in table does not know. Times are in
    seconds: `llm_timeout` is for one call, `llm_patience` what the end of a campaign waits for the last summary.
    `llm_prompt_chars` bounds what a role is told, and `llm_tools` lets it ask the store. What is None depends on who
    thinks: a server of our own gets time, one short prompt after another and no tools, as small models on a CPU need.
    """

    llm: str = "none"
    llm_model: str | None = None
    llm_timeout: float | None = Field(default=None, gt=0, le=3_600)
    llm_patience: float = Field(default=60.0, ge=0, le=3_600)
    llm_attempts: int = Field(default=3, ge=1, le=10)
    llm_output_tokens: int | None = Field(default=None, ge=64, le=32_000)
    llm_prompt_chars: int | None = Field(default=None, ge=2_000, le=400_000)
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
        return self.llm_timeout if self.llm_timeout is not None else 600.0 if self.is_local else 120.0

    @property
    def prompt_chars(self) -> int:
        """Characters that a role is told at most."""
        return self.llm_prompt_chars if self.llm_prompt_chars is not None else 5_000 if self.is_local else 12_000

    @property
    def tools(self) -> bool:
        """Whether roles may look things up."""
        return self.llm_tools if self.llm_tools is not None else not self.is_local

    @property
    def output_tokens(self) -> int:
        """Tokens of an answer at most."""
        return self.llm_output_tokens if self.llm_output_tokens is not None else 600 if self.is_local else 1_200

    @property
    def concurrency(self) -> int:
        """Questions at the same time at most."""
        return self.llm_concurrency if self.llm_concurrency is not None else 1 if self.is_local else 2
