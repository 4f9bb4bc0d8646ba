"""What a protocol measures: one model with its text and its captures. Loads the model only when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.experiments.corpus import Corpus

    from swarm.experiments.captures import CaptureStore
    from swarm.experiments.models.base import LoadedModel, ModelInfo


class Subject:
    """One model as an experiment sees it.

    Args:
        name: the model.
        describe: gives the facts about it without loading it.
        load: loads it, or hands out the one in memory.
        corpus: the text that is read.
        captures: where what all trials share is kept.
    """

    def __init__(
        self,
        name: str,
        describe: Callable[[str], ModelInfo],
        load: Callable[[str], LoadedModel],
        corpus: Corpus,
        captures: CaptureStore,
    ) -> None:
        self.name = name
        self.corpus = corpus
        self.captures = captures
        self._describe = describe
        self._load = load

    @cached_property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        return self._describe(self.name)

    @property
    def loaded(self) -> LoadedModel:
        """The model in memory."""
        return self._load(self.name)
