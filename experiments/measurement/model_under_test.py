"""What a protocol measures: one model with its text and the 16-bit runs that its trials share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from swarm.experiments import edits
from swarm.experiments.artifacts import CAPTURE_VERSION
from swarm.experiments.environment import arithmetic
from swarm.experiments.measurement.forward import ForwardPass
from swarm.experiments.models.loading import release_memory
from swarm.experiments.text import TokenizedTexts
from swarm.kernels.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from swarm.experiments.artifacts import CaptureStore
    from swarm.experiments.measurement.edited_capture import Changes
    from swarm.experiments.measurement.reference_run import ReferenceRun
    from swarm.experiments.models.base import LoadedModel, ModelInfo
    from swarm.experiments.spec import KernelTiming, TrialSpec
    from swarm.experiments.text import Corpus, Split
    from swarm.kernels.layers import TracedLayer

    R = TypeVar("R", bound=ReferenceRun)

MAX_OPEN_RUNS = 4


class ModelUnderTest:
    """One model as an experiment sees it. The model itself is loaded when something needs it.

    Args:
        name: the model.
        describe: gives the facts about it without loading it.
        load: loads it, or hands out the one in memory.
        corpus: the text that is read.
        captures: where the 16-bit runs are kept.
        kernels: what kernels are timed for, where there are any.
    """

    def __init__(
        self,
        name: str,
        describe: Callable[[str], ModelInfo],
        load: Callable[[str], LoadedModel],
        corpus: Corpus,
        captures: CaptureStore,
        kernels: KernelTiming,
    ) -> None:
        self.name = name
        self.corpus = corpus
        self.captures = captures
        self.kernels = kernels
        self._describe = describe
        self._load = load
        self.changes: Changes | None = None
        """What edits did to the model in memory, while they last."""
        self._forward: ForwardPass | None = None
        self._runs: OrderedDict[tuple[object, ...], ReferenceRun] = OrderedDict()

    @cached_property
    def info(self) -> ModelInfo:
        """Facts about the model. A model whose weights are not on this machine yet is fetched, for its digest."""
        found = self._describe(self.name)
        return found if found.digest else self.loaded.info

    @property
    def loaded(self) -> LoadedModel:
        """The model in memory."""
        return self._load(self.name)

    @property
    def forward(self) -> ForwardPass:
        """The forward pass of the model in memory."""
        model = self.loaded.model
        if self._forward is None or self._forward.model is not model:
            self._forward = ForwardPass(model)
        return self._forward

    @property
    def traced(self) -> tuple[TracedLayer, ...]:
        """The layers of the model in memory."""
        return self.forward.traced

    @cached_property
    def _tokens(self) -> TokenizedTexts:
        texts = self.corpus.part("scored"), self.corpus.part("calibration")
        return TokenizedTexts(self.loaded, texts, self.captures)

    def windows(self, spec: TrialSpec, length: int, count: int, split: Split = "scored") -> NDArray[np.int32]:
        """Text windows of the trial's replicate from one part of the text: token ids [count, length].

        Raises:
            CorpusError: the text is too short.
        """
        return self.corpus.windows(self._tokens, length, count, spec.replicate, split=split, bos=self.info.bos)

    def shared(self, kind: type[R], spec: TrialSpec) -> R:
        """The 16-bit run of the trial's text, made now if nobody did before; a few stay open."""
        key = (kind, *sorted(self.key(spec).items()))
        if key not in self._runs:
            self._runs[key] = kind.of(spec, self)
            release_memory()
            while len(self._runs) > MAX_OPEN_RUNS:
                self._runs.popitem(last=False)
        self._runs.move_to_end(key)
        return self._runs[key]  # type: ignore[return-value]

    def key(self, spec: TrialSpec) -> dict[str, str | int | float]:
        """Everything that a 16-bit run of the trial's text depends on.

        Raises:
            SpecError: the trial was made for other weights or another text.
        """
        for what, wanted, here in (
            ("weights", spec.model_digest, self.info.digest),
            ("text", spec.corpus_digest, self.corpus.digest),
        ):
            if wanted and wanted != here:
                raise SpecError(
                    f"the trial was made for other {what}: digest {wanted[:12]}, here {here[:12] or 'none'}.",
                    f"Run it with the {what} that it names.",
                )
        return {
            "model": self.info.name,
            "weights": self.info.digest,
            "corpus": self.corpus.digest,
            "context": spec.context,
            "replicate": spec.replicate,
            "logit_gain": spec.logit_gain,
            "arithmetic": arithmetic(),
            "version": CAPTURE_VERSION,
            **({"edits": f"{edits.label(spec.edits)} (version {edits.EDIT_VERSION})"} if spec.edits else {}),
        }
