"""Between our cache configurations and flags of engines: the nearest that an engine has, and what its flags mean."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import product
from math import log

import numpy as np

from swarm.experiments.engines.base import Chosen, Engine, named
from swarm.experiments.engines.run.flags import EngineSpec
from swarm.experiments.engines.run.startable import option
from swarm.kernels.errors import SpecError, UsageError
from swarm.kernels.quant_spec import QuantSpec
from swarm.kernels.quantizers.base import Side
from swarm.kernels.spec import FrozenModel, KVSpec, ranges

SAMPLE = (1, 1, 512, 256)
"""Vectors of a normal distribution by whose errors methods are compared: their number and size."""

SIXTEEN_BIT = 16.0
MORE = 1.01
"""How much more a bit counts that an engine stores less than was wanted: at equal distance it stores more."""
HALF_ROUNDING = 2.0**-11
"""Relative error of a value that is rounded to 16 bit."""


class Expressed(FrozenModel):
    """A configuration as an engine can have it.

    Attributes:
        engine: what people call the engine.
        kv: what it stores then, as a configuration of ours.
        command: the command line, environment or configuration that sets it.
        lost: what of the wanted configuration the engine cannot express.
        notes: in what the engine's cache differs from `kv`.
    """

    engine: str
    kv: KVSpec
    command: str
    lost: tuple[str, ...]
    notes: tuple[str, ...]


class Read(FrozenModel):
    """What flags of an engine mean: the configuration of ours, and in what the engine's cache differs from it."""

    engine: str
    kv: KVSpec
    notes: tuple[str, ...]


def express(engine: Engine, kv: KVSpec, n_layers: int | None = None) -> Expressed:
    """The settings of an engine that come nearest to a configuration.

    Nearest means first in bits per value, then in method and rotation, then in the error on normal vectors; keys and
    values count alike.

    Args:
        engine: which one.
        kv: what is wanted.
        n_layers: layers of the model, where known; needed to say which ones stay in 16 bit.

    Raises:
        UsageError: nothing is known about how this engine stores its cache.
    """
    choices = list(_choices(engine))
    if not choices:
        raise UsageError(f"nothing is known about how {engine.title} stores its cache.", "Name another engine.")
    chosen, nearest = min(choices, key=lambda choice: _distance(kv, choice[1]))
    skipped: tuple[int, ...] = ()
    if engine.skips_layers and kv.layers is not None and n_layers and _quantized(nearest):
        skipped = tuple(sorted(set(range(n_layers)) - set(kv.layers)))
        nearest = nearest.on(kv.layers)
    return Expressed(
        engine=engine.called or engine.name,
        kv=nearest,
        command=engine.command(chosen, skipped),
        lost=tuple(_lost(kv, nearest)),
        notes=tuple(engine.kv_notes(chosen)),
    )


def of_engine(engine: Engine, flags: EngineSpec) -> Expressed:
    """The settings of an engine for what was measured of an engine with flags.

    Of the same engine they are those flags, all of them; of another one the nearest cache.
    """
    found = express(engine, stored(flags))
    words = _words(flags)
    if found.engine != flags.engine:
        others = [word for word in words if not _concerns_cache(named(flags.engine), word)]
        lost = (f"of {flags.engine}: {' '.join(others)}",) if others else ()
        return found.model_copy(update={"lost": (*found.lost, *lost)})
    command = found.command
    for word in words:
        place = re.compile(rf"(?<!\S){re.escape(re.split('[ =]', word)[0])}[ =]\S+")
        if place.search(command):
            command = place.sub(word.replace("\\", r"\\"), command)
        else:
            command = f"{command} {word}" if word.startswith("-") else f"{word} {command}"
    return found.model_copy(update={"command": command, "lost": ()})


def stored(flags: EngineSpec) -> KVSpec:
    """What an engine stores under flags that were measured, as a configuration of ours."""
    engine, words = named(flags.engine), _words(flags)
    about_cache = [word for word in words if _concerns_cache(engine, word)]
    return read(engine, " ".join(about_cache)).kv if about_cache else KVSpec()


def _words(flags: EngineSpec) -> list[str]:
    """Each flag as one writes it: an environment variable, or an option."""
    return [
        f"{name}={value}" if name.isupper() else " ".join(option(name, value)) for name, value in flags.flags.items()
    ]


def _concerns_cache(engine: Engine, word: str) -> bool:
    spelled = {spelling for setting in engine.kv_settings.values() for spelling in setting.spellings}
    return any(name in spelled for name, _ in _pairs(word))


def read(engine: Engine, text: str) -> Read:
    """What a command line, environment or JSON configuration of an engine means for its KV cache.

    Options that have nothing to do with the cache are passed over.

    Raises:
        UsageError: nothing in it concerns the cache, or a value that the engine does not know.
    """
    found: dict[str, str] = {}
    spelled = {spelling: name for name, setting in engine.kv_settings.items() for spelling in setting.spellings}
    for key, value in _pairs(text):
        name = spelled.get(key)
        if name is not None:
            found[name] = _checked(engine, name, key, value)
    if not found:
        known = ", ".join(setting.spellings[0] for setting in engine.kv_settings.values())
        raise UsageError(
            f"nothing in {text!r} says how {engine.title} stores its cache.",
            f"Give one of: {known}." if known else "Name another engine.",
        )
    chosen = {name: (setting.values or ("",))[0] for name, setting in engine.kv_settings.items()} | found
    return Read(engine=engine.called or engine.name, kv=engine.kv(chosen), notes=tuple(engine.kv_notes(chosen)))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Names and values in a command line (with what is set before it) or in a JSON object."""
    if text.lstrip().startswith("{"):
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{text!r} is no JSON: {error}.", "Give an object.") from error
        for name, value in fields.items():
            yield name, value if isinstance(value, str) else json.dumps(value)
        return
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no command line: {error}.", "Close its quotes.") from error
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if equals and (word.startswith("-") or re.fullmatch(r"\w+", name)):
            yield name, value
        elif word.startswith("-"):
            following = words[place + 1] if place + 1 < len(words) else "-"
            yield word, "on" if following.startswith("-") else following


def _checked(engine: Engine, name: str, key: str, value: str) -> str:
    values = engine.kv_settings[name].values
    low = value.lower()
    if (low in values) if values else low.isdigit():
        return low
    expected = ", ".join(values) or "a number"
    raise UsageError(f"{engine.title} knows no {key} {value!r}.", f"Expected: {expected}.")


def _choices(engine: Engine) -> Iterator[tuple[Chosen, KVSpec]]:
    """Every setting that an engine takes, its defaults first, with what it stores then."""
    names = tuple(engine.kv_settings)
    for values in product(*(engine.kv_settings[name].values or ("0",) for name in names)) if names else ():
        chosen = dict(zip(names, values, strict=True))
        try:
            yield chosen, engine.kv(chosen)
        except UsageError:
            continue


def _distance(wanted: KVSpec, found: KVSpec) -> tuple[float, float, float]:
    pairs = ((wanted.key, found.key), (wanted.value, found.value))
    sides: tuple[Side, ...] = ("key", "value")
    bits = sum(max(_bits(b) - _bits(a), MORE * (_bits(a) - _bits(b))) for a, b in pairs)
    kind = sum((a.method != b.method) + (a.rotation != b.rotation) / 2 for a, b in pairs)
    return (
        round(bits, 6),
        kind,
        sum(abs(_error(a, side) - _error(b, side)) for side, (a, b) in zip(sides, pairs, strict=True)),
    )


@cache
def _bits(spec: QuantSpec) -> float:
    """Bits per value, at a head size of the sample's or the next smaller one that the method takes."""
    from swarm.kernels.quantizers import base

    if spec.method == "none":
        return SIXTEEN_BIT
    for head in (SAMPLE[-1], 128, 64):
        try:
            return base.build(spec, head).bits_per_value()
        except SpecError:
            continue
    raise SpecError(f"{spec.label} fits no usual head size.", "Name another configuration.")


@cache
def _error(spec: QuantSpec, side: Side) -> float:
    """Logarithm of the relative squared error on the sample: of scores for keys, of the vectors for values."""
    from swarm.kernels.codec import Codec

    if spec.method == "none":
        return 2 * log(HALF_ROUNDING)
    rng = np.random.default_rng(0)
    x, q = (rng.standard_normal(shape).astype(np.float32) for shape in (SAMPLE, (1, 1, 64, SAMPLE[-1])))
    codec = Codec(spec.model_copy(update={"scaling": "fixed"}), side, SAMPLE[-1])
    decoded = codec.decode(codec.encode(x))
    if side == "key":
        exact, found = x[0, 0] @ q[0, 0].T, decoded[0, 0] @ codec.query(q)[0, 0].T
    else:
        exact, found = x, codec.output(decoded)
    return log(float(((np.asarray(found) - exact) ** 2).mean() / (exact**2).mean()))


def _quantized(kv: KVSpec) -> bool:
    return (kv.key.method, kv.value.method) != ("none", "none")


def _lost(wanted: KVSpec, found: KVSpec) -> Iterator[str]:
    for name, asked, got in (("keys", wanted.key, found.key), ("values", wanted.value, found.value)):
        if asked != got:
            yield f"{name}: {_said(asked)} becomes {_said(got)}"
    if wanted.sink_tokens:
        yield f"the first {wanted.sink_tokens} tokens in 16 bit"
    if wanted.residual_window:
        yield f"the most recent {wanted.residual_window} tokens in 16 bit"
    if wanted.key_bias == "subtract":
        yield "the key bias subtracted before encoding"
    for override in wanted.overrides:
        yield f"other methods for some layers ({override.label})"
    if wanted.layers is not None and found.layers is None:
        yield f"16 bit in all layers but {ranges(wanted.layers)}"


def _said(spec: QuantSpec) -> str:
    return "16 bit" if spec.method == "none" else f"{spec.label} ({_bits(spec):.3g} bits per value)"
