"""The text: parts that never overlap, windows that are spread, repeatable and disjoint, and clear refusals.

Its token ids are the tokenizer's own, made once for all processes, and again when what they depend on changes.
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_models import write_tiny_model

from swarm.experiments.artifacts import CaptureStore
from swarm.experiments.models import registry
from swarm.experiments.text import Corpus, CorpusError, TokenizedTexts


class Positions:
    """A tokenizer with one token per character, numbered from the start: windows show where they lie."""

    bos_token_id = 1 << 30

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [self.bos_token_id] * add_special_tokens + list(range(len(text)))


TEXT = "\n".join(f"line {number}: {number**3 * 7919 % 100_003}" for number in range(3000))


def spans(windows: np.ndarray) -> list[tuple[int, int]]:
    assert np.all(np.diff(windows) == 1), "a window is not a piece of the part"
    return [(int(window[0]), int(window[-1]) + 1) for window in windows]


def overlapping(pieces: list[tuple[int, int]]) -> bool:
    return any(first[1] > second[0] for first, second in itertools.pairwise(sorted(pieces)))


def test_the_bundled_text_is_there() -> None:
    corpus = Corpus.open()
    assert len(corpus.text) > 300_000
    assert corpus.digest == Corpus.open().digest


@given(text=st.text(st.characters(codec="utf-8"), min_size=2, max_size=400))
def test_parts_are_the_whole_text_and_share_nothing(text) -> None:
    corpus = Corpus(text, "test")
    assert corpus.part("scored") + corpus.part("calibration") == text
    assert corpus.part("scored")


@settings(deadline=None)
@given(
    length=st.integers(2, 2000),
    count=st.integers(1, 12),
    replicate=st.integers(0, 40),
    bos=st.booleans(),
    data=st.data(),
)
def test_windows_are_disjoint_pieces_of_their_part(length, count, replicate, bos, data) -> None:
    corpus, split = Corpus(TEXT, "test"), data.draw(st.sampled_from(["scored", "calibration"]))
    assume(len(corpus.part(split)) >= count * length)
    found = corpus.windows(Positions(), length, count, replicate, split=split, bos=bos)
    again = Corpus(TEXT, "test").windows(Positions(), length, count, replicate, split=split, bos=bos)
    np.testing.assert_array_equal(found, again)
    assert found.shape == (count, length)
    assert found.dtype == np.int32
    if bos:
        assert np.all(found[:, 0] == Positions.bos_token_id)
        found = found[:, 1:]
    pieces = spans(found)
    assert not overlapping(pieces)
    assert max(end for _, end in pieces) <= len(corpus.part(split))


@pytest.mark.parametrize(("length", "count"), [(512, 4), (513, 6), (64, 16), (2048, 4)])
def test_replicates_share_no_token_until_the_text_is_used_up(length, count) -> None:
    corpus, tokenizer = Corpus(TEXT, "test"), Positions()
    turns = (len(corpus.part("scored")) // length - 1) // count
    assert turns >= 2
    pieces = [spans(corpus.windows(tokenizer, length, count, replicate)) for replicate in range(turns)]
    assert not overlapping(list(itertools.chain(*pieces)))
    later = spans(corpus.windows(tokenizer, length, count, turns))
    assert set(later).isdisjoint(itertools.chain(*pieces))


def test_windows_reach_over_the_whole_part() -> None:
    corpus = Corpus(TEXT, "test")
    size = len(corpus.part("scored"))
    starts = sorted(start for start, _ in spans(corpus.windows(Positions(), 256, 8)))
    assert max(np.diff([0, *starts, size])) < 0.3 * size


def test_files_are_read_as_text(tmp_path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("naïve 漢字\n" * 50, encoding="utf-8")
    corpus = Corpus.open(path)
    assert corpus.text == path.read_text(encoding="utf-8")
    path.write_bytes(b"\xef\xbb\xbf" + "naïve 漢字\n".encode() * 50)
    assert Corpus.open(path).digest == corpus.digest


def test_long_files_are_cut_at_a_character(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("swarm.experiments.text.MAX_CHARACTERS", 10)
    for shift in range(4):
        path = tmp_path / "text.txt"
        path.write_text("x" * shift + "漢🎉" * 100, encoding="utf-8")
        assert Corpus.open(path).text == ("x" * shift + "漢🎉" * 100)[:10]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00\x01 nonsense", "not UTF-8"),
        (b"caf\xe9 au lait", "not UTF-8"),
        (b"text\0with\0zeros", "binary"),
        (b"", "empty"),
        (b" \n\n ", "empty"),
    ],
)
def test_what_is_not_text_is_refused(tmp_path, content, reason) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=reason) as caught:
        Corpus.open(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_missing_files_and_folders_are_refused(tmp_path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(CorpusError, match=str(path)):
            Corpus.open(path)


def test_too_short_a_text_is_refused_with_numbers() -> None:
    corpus = Corpus("a few words\n" * 10, "short.txt")
    with pytest.raises(CorpusError, match=r"short\.txt is too short.* 4 windows of 512") as caught:
        corpus.windows(Positions(), 512, 4)
    assert caught.value.exit_code == 2


def test_a_text_too_short_for_any_tokenizer_is_told_by_its_bytes() -> None:
    corpus = Corpus("a few words\n" * 10, "short.txt")
    corpus.check_length(24, 4)
    with pytest.raises(CorpusError, match=r"short\.txt is too short.* 96 bytes, 4 windows of 25") as caught:
        corpus.check_length(25, 4)
    assert caught.value.exit_code == 2


TEXTS = ("What is scored. Naïve café, 12 345 tokens!\n" * 5, "What calibrates.")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_tiny_model(tmp_path / "model", "llama")


@pytest.fixture
def captures(tmp_path) -> CaptureStore:
    return CaptureStore(tmp_path / "captures")


def counting(folder: Path):
    """The model, and how often its tokenizer was read."""
    loaded = registry.load(str(folder))
    read: list[None] = []

    def reading():
        read.append(None)
        return loaded.read_tokenizer()

    return replace(loaded, read_tokenizer=reading), read


def test_the_ids_are_the_tokenizers_and_it_is_read_once(folder, captures) -> None:
    loaded, read = counting(folder)
    tokenizer = registry.load(str(folder)).tokenizer
    for store in (captures, CaptureStore(captures.root)):
        found = TokenizedTexts(loaded, TEXTS, store)
        for text in TEXTS:
            np.testing.assert_array_equal(found.encode(text), tokenizer.encode(text, add_special_tokens=False))
        assert found.bos_token_id == tokenizer.bos_token_id
    assert len(read) == 1


def test_another_tokenizer_or_text_is_not_taken_for_the_same(folder, captures) -> None:
    loaded, read = counting(folder)
    TokenizedTexts(loaded, TEXTS, captures).encode(TEXTS[0])
    TokenizedTexts(loaded, (*TEXTS, "More."), captures).encode("More.")
    assert len(read) == 2
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    TokenizedTexts(loaded, TEXTS, captures).encode(TEXTS[0])
    assert len(read) == 3


def test_a_text_that_it_was_not_made_for_is_refused(folder, captures) -> None:
    with pytest.raises(KeyError):
        TokenizedTexts(counting(folder)[0], TEXTS, captures).encode("other")


@pytest.mark.parametrize(("name", "sign"), [("prose", " the "), ("code", "\nimport "), ("dialogue", "\n>>> ")])
def test_texts_of_three_kinds_come_with_python(name, sign):
    corpus = Corpus.open(Path(name))
    assert len(corpus.part("scored")) > 4 * 8 * 8193, "no room for windows of 8K tokens of some four characters"
    for split in ("scored", "calibration"):
        assert corpus.part(split).count(sign) > 100
    assert corpus.digest == Corpus.open(Path(name)).digest


def test_a_file_may_have_the_name_of_a_bundled_text(tmp_path, monkeypatch):
    (tmp_path / "code").write_text("my own text\n")
    monkeypatch.chdir(tmp_path)
    assert Corpus.open(Path.cwd() / "code").text == "my own text\n"
    assert Corpus.open(Path("code")).text != "my own text\n"
