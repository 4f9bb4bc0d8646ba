"""Edits of weights that leave a model's 16-bit function as it is, and plant or remove a cause of quantization errors.

`label` writes edits as text and `read` reads that text back, e.g. `keys outliers x8 layers 0-3; values even`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from swarm.kernels.errors import SpecError
from swarm.kernels.quant_spec import Piece
from swarm.kernels.spec import FrozenModel, check_layers, ranges, read_layers

EDIT_VERSION = 2
"""Raised when an edit changes weights otherwise than before."""

Part = Literal["keys", "values", "scale"]
Change = Literal["outliers", "scaled", "even", "balanced", "folded"]
CHANGES: dict[Part, tuple[Change, ...]] = {
    "keys": ("outliers", "scaled", "even", "balanced"),
    "values": ("outliers", "scaled", "even", "balanced"),
    "scale": ("folded",),
}

MAX_FACTOR = 256.0
"""Keys and values have to stay within 16-bit floats."""

_FORM = "Write it as in `keys even`, `values outliers x8 layers 0-3` or `scale folded`; several with `;` between."
_TEXT = re.compile(
    r"(?P<part>keys|values|scale) +(?P<change>outliers|scaled|even|balanced|folded)(?: +x(?P<factor>[0-9.]{1,12}))?"
    r"(?: +layers? +(?P<layers>\S+))?"
)


class WeightEdit(FrozenModel):
    """One edit of the weights around attention; what leaves one matrix enters another.

    - `keys` and `values` `outliers`: one channel in sixteen is multiplied by `factor`.
    - `keys` and `values` `scaled`: all channels are multiplied by `factor`.
    - `keys` and `values` `even`: each channel is divided by its magnitude on calibration text (by the nearest power of
      two, so that 16-bit floats lose nothing), which removes outlier channels that the model has.
    - `keys` and `values` `balanced`: likewise, but halfway between what the channels carry and what reads them
      (queries, or the output projection), where the errors of all channels weigh the same. A channel that is large in
      keys and small in queries shrinks; one that is large in both stays.
    - `scale` `folded`: the factor on the attention logits becomes 1 and enters the queries.

    Keys are scaled against queries, both channels of a rotary pair alike, as rotation mixes them; values against the
    output projection. `layers` are those that are edited, sorted; None means all.
    """

    part: Part
    change: Change
    factor: float | None = Field(default=None, gt=1, le=MAX_FACTOR)
    layers: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.change not in CHANGES[self.part]:
            raise SpecError(f"{self.part} cannot be made {self.change}.", _FORM)
        if (self.factor is not None) != (self.change in ("outliers", "scaled")):
            remedy = "Give one to outliers and scaled alone."
            raise SpecError(f"the edit {self.part} {self.change} has a wrong factor.", remedy)
        if self.layers is not None:
            check_layers(self.layers)
        return self

    @property
    def label(self) -> str:
        """The edit as text."""
        text = f"{self.part} {self.change}"
        text += "" if self.factor is None else f" x{self.factor:.9g}"
        if self.layers is not None:
            text += f" layer{'s' if len(self.layers) > 1 else ''} {ranges(self.layers)}"
        return text

    def covers(self, layer: int) -> bool:
        """Whether a layer is edited."""
        return self.layers is None or layer in self.layers


def label(edits: Sequence[WeightEdit]) -> str:
    """Edits as text; empty for none."""
    return "; ".join(edit.label for edit in edits)


def read(text: str) -> tuple[WeightEdit, ...]:
    """The edits that `label` writes so; none for an empty text.

    Raises:
        SpecError: with the place and the reason.
    """
    pieces = (Piece(text, found[0].rstrip(), found.start()) for found in re.finditer(r"[^;\s][^;]*", text))
    return tuple(map(_read, pieces))


def _read(piece: Piece) -> WeightEdit:
    found = _TEXT.fullmatch(piece.part)
    if found is None:
        raise piece.error("it is no edit of weights.", _FORM)
    fields = {name: value for name, value in found.groupdict().items() if value is not None}
    if "layers" in fields:
        fields["layers"] = read_layers(piece.sub(found["layers"], found.start("layers")))
    with piece.located():
        return WeightEdit.model_validate(fields)


def _from_text(data: Any) -> Any:
    return read(data) if isinstance(data, str) else data


WeightEdits = Annotated[
    tuple[WeightEdit, ...],
    BeforeValidator(_from_text),
    Field(default=(), max_length=8, exclude_if=lambda edits: not edits),
]
"""A field of edits, which takes their text as well. Without edits it is left out of what is written down, so that
specifications without them read as they did before there were edits."""
