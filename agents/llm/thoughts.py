"""Takes a model's thoughts out of its text, where the server left them in.

Families of models mark thoughts in their own way; a new family is one more pair of marks.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Marks(NamedTuple):
    """What opens and what closes a thought, as regular expressions.

    `own` says that the closing mark closes nothing but thoughts, so that one without an opening means that the text
    began with a thought: many chat templates put the opening mark into the prompt.
    """

    opening: str
    closing: str
    own: bool = True


TAGS = "(?:think|thinking|thought|reasoning|reflection|seed:think|longcat_think)"
MARKS = (
    Marks(f"<{TAGS}>", f"</{TAGS}>"),  # DeepSeek R1, Qwen 3, GLM, Nemotron, EXAONE, Seed-OSS, LongCat
    Marks(r"\[think\]", r"\[/think\]"),  # Magistral
    Marks("◁think▷", "◁/think▷"),  # Kimi
    Marks(r"<\|start_thinking\|>", r"<\|end_thinking\|>"),  # Command A
    Marks(r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker, Sky-T1
    Marks(r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    Marks("<unused94>", "<unused95>"),  # MedGemma
    Marks(r"<\|channel>thought", r"<channel\|>"),  # Gemma 4
    Marks("Here is my thought process:", "Here is my response:"),  # Granite 3
    Marks(
        r"<\|channel\|>[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>", r"<\|(?:end|call|return)\|>", own=False
    ),  # gpt-oss
)

_FINAL = re.compile(r"<\|channel\|>\s*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>", re.IGNORECASE)
"""Where gpt-oss begins its answer, whatever came before."""

_FRAME = re.compile(
    r"<\|(?:start\|>assistant|(?:end|return|start_response|end_response|begin_of_solution|end_of_solution)\|>)"
    "|</?answer>",
    re.IGNORECASE,
)
"""What stands around answers."""

_PATTERNS = [
    (re.compile(marks.opening, re.IGNORECASE), re.compile(marks.closing, re.IGNORECASE), marks.own) for marks in MARKS
]


def without_thoughts(text: str) -> str:
    """The text without its thoughts; one that is never closed goes to the end of the text (it was cut off)."""
    *_, text = _FINAL.split(text)
    for opening, closing, own in _PATTERNS:
        begin, end = opening.search(text), closing.search(text)
        if own and end is not None and (begin is None or end.start() < begin.start()):
            text = text[end.end() :]
        kept, place = [], 0
        while begin := opening.search(text, place):
            kept.append(text[place : begin.start()])
            end = closing.search(text, begin.end())
            place = len(text) if end is None else end.end()
        text = "".join(kept) + text[place:]
    return _FRAME.sub("", text)
