"""Known models, with what has been published about them, and the short names that stand for them.

Every figure in catalog.json is as its publisher gives it, on the page that stands beside it. What no page
says is missing there. Figures of different measures cannot be compared, so most models carry the one that was
measured for nearly all of them in the same way. The list helps to choose and is no fence: any cross-encoder
can be used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

DEFAULT_NAME = "cross-encoder/ms-marco-MiniLM-L-6-v2"
OFFLINE_NAME = "offline/ms-marco-MiniLM-L-12-v2"
MULTILINGUAL = "multilingual"
COMMON_MEASURE = "nDCG@10, MTEB(eng, v2) retrieval, the top 100 of six embedders reranked"


@dataclass(frozen=True, slots=True)
class Quality:
    """A published figure between 0 and 1, what it measures, and the page that it stands on."""

    figure: float
    measure: str
    source: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model and what its publishers say about it.

    `alias` is the short name that stands for it. `parameters` counts weights; `context_length` is in tokens
    of query and document together. `languages` are ISO 639-1 codes, or `multilingual` where many are
    claimed. `score_scale` is that of the scores as the model gives them. `family` is the architecture as
    transformers names it, None for one that comes as Python code. An `encoder` has a head with one label; a
    `causal` model is asked for a word, and its score is how much likelier yes is than no. `source` is the
    page with all of this except the quality. `other_names` are other spellings that the hub knows.
    """

    name: str
    alias: str = ""
    source: str = ""
    family: str | None = None
    kind: Literal["encoder", "causal"] = "encoder"
    parameters: int | None = None
    languages: tuple[str, ...] = ("en",)
    context_length: int | None = None
    licence: str | None = None
    score_scale: Literal["logit", "sigmoid"] | None = None
    quality: tuple[Quality, ...] = ()
    needs_remote_code: bool = False
    other_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def common_quality(self) -> float | None:
        """The figure of the measure that nearly all models have, for comparing them."""
        return next((one.figure for one in self.quality if one.measure == COMMON_MEASURE), None)

    def reads(self, language: str) -> bool:
        """Whether a language is among its own; a multilingual model is taken to read any."""
        return language in self.languages or MULTILINGUAL in self.languages


@cache
def read_catalog() -> tuple[KnownModel, ...]:
    """Return the known models, in the order in which they are listed."""
    text = Path(__file__).with_name("catalog.json").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text)
    for row in rows:
        row["quality"] = [Quality(**quality) for quality in row.get("quality", ())]
        row.update({name: tuple(value) for name, value in row.items() if isinstance(value, list)})
    return tuple(KnownModel(**row) for row in rows)


def find_known(name: str) -> KnownModel | None:
    """Find a model by its name, another name that the hub has for it, or its alias, in any case."""
    wanted = name.lower()
    return next(
        (
            known
            for known in read_catalog()
            if wanted in map(str.lower, (known.name, known.alias, *known.other_names))
        ),
        None,
    )


def resolve_alias(name: str) -> str:
    """Return the whole name that an alias stands for, and anything else as it is.

    Only an alias is replaced: another name for a model on the hub may be the one under which it is cached.
    """
    known = find_known(name)
    return known.name if known is not None and known.alias == name.lower() else name


def suggest_names(name: str, others: Iterable[str] = ()) -> list[str]:
    """Return at most three known models, or of `others`, that a mistyped name was probably meant for."""
    from difflib import get_close_matches

    candidates: dict[str, str] = {}
    for whole in (*others, *(known.name for known in read_catalog())):
        # With and without the owner: one that is missing or wrong does not hide what is right.
        candidates |= {whole.lower(): whole, whole.rpartition("/")[2].lower(): whole}
    candidates |= {known.alias: known.alias for known in read_catalog()}
    wanted = name.lower()
    for typed in (wanted, wanted.rpartition("/")[2]):
        if typed in candidates:
            return [candidates[typed]]
        if close := get_close_matches(typed, candidates, n=6):
            return list(dict.fromkeys(candidates[match] for match in close))[:3]
    return []
