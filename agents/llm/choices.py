"""What a role may answer at this moment, as pydantic types: enumerations of the space, and ids that it was shown."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, cast

from pydantic import BaseModel, Field, StringConstraints, create_model

from swarm.experiments.space.search_space import Space
from swarm.kernels.spec import QuantSpec

MAX_WORDS_CHARS = 80
"""Characters of a reason or rationale where the answer is held to a schema."""

Words = Annotated[str, Field(max_length=MAX_WORDS_CHARS)]


def one_of(values: Iterable[str | int | float | None]) -> Any:
    """The type of exactly these values."""
    return cast("Any", Literal).__getitem__(tuple(values))


def listed(name: str, values: Sequence[str]) -> Any:
    """The type of exactly these words, under a name: a schema that has it in many places spells it out once."""
    return Enum(name, {value: value for value in values})


def either(types: Sequence[Any]) -> Any:
    """The type of what is one of these types."""
    return cast("Any", Union).__getitem__(tuple(types))


def list_of(item: Any, most: int) -> Any:
    """The type of lists of one to `most` items."""
    return Annotated[list[item], Field(min_length=1, max_length=most)]


def shape(name: str, **fields: Any) -> type[BaseModel]:
    """A type with these required fields."""
    definitions: Any = {field: (kind, ...) for field, kind in fields.items()}
    made: type[BaseModel] = create_model(name, **definitions)
    return made


def comparisons(name: str, field: str, found: Sequence[Any], most: int) -> type[BaseModel] | None:
    """The answer that lists up to so many comparisons; None where there is nothing to compare."""
    return shape(name, **{field: list_of(either(found), most)}) if found else None


def pairs(trials: Mapping[str, Mapping[int, Sequence[int]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Models with the types of a better and a worse trial: each trial with those that it may be set against."""
    for model, partners in trials.items():
        for better, others in partners.items():
            if not others:
                continue
            yield model, {"better_trial": one_of([better]), "worse_trial": one_of(others)}


def configuration(space: Space, model: str) -> Any:
    """The type of a cache configuration's text: what the space of a model has, and at least one side packed."""
    info, settings = space.models[model], space.settings
    key, value = (_side(spec for name in side.methods for spec in side.specs(name)) for side in space.sides(info))
    options = _optional("sink", settings.sink_tokens) + _optional("recent", settings.residual_window)
    bias = "( -bias)?" if info.key_bias else ""
    pattern = f"^(K {key} V ({value}|none){options}{bias}|K none V {value}{options})$"
    return Annotated[str, StringConstraints(pattern=pattern)]


def _side(specs: Iterable[QuantSpec]) -> str:
    """A regular expression of the labels of packed specifications, in the few classes of what may follow a method."""
    tails: dict[str, list[str]] = defaultdict(list)
    for spec in specs:
        if spec.method != "none":
            head, *rest = re.split(r"(?=[/+])", spec.label, maxsplit=1)
            tails[head].append("".join(rest))
    heads: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for head, ends in tails.items():
        heads[tuple(ends)].append(head)
    return _any(_any(names) + (_any(ends) if any(ends) else "") for ends, names in heads.items())


def _any(texts: Iterable[str]) -> str:
    """A group of alternatives; those that are labels contain nothing but word characters, `/` and `+`."""
    found = list(texts)
    literal = [text if text.startswith("(") else re.sub(r"\+", r"\\+", text) for text in found]
    return f"({'|'.join(literal)})"


def _optional(name: str, counts: Sequence[int]) -> str:
    some = [str(count) for count in counts if count]
    return f"( {name}({'|'.join(some)}))?" if some else ""
