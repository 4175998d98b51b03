"""Known models: what has been published about them, and short names for them.

Every figure in catalog.json is its publisher's, with the page that it comes from. Figures of different
measures cannot be compared, so most models have the figure of one measure that was applied to nearly all of
them in the same way. The list helps to choose; any other cross-encoder can be used, too.
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
    """A published figure between 0 and 1, what it measures, and the page that it comes from."""

    figure: float
    measure: str
    source: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model and what its publishers say about it.

    `alias` is its short name. `parameters` is how many weights it has; `context_length` is in tokens of query
    and document together. `languages` are ISO 639-1 codes, or `multilingual`. `score_scale` is the scale of
    the model's own scores. `family` is transformers' name of the architecture, None for one that comes as
    Python code. An `encoder` has a head with one label; a `causal` model answers yes or no, and its score is
    how much likelier yes is. `source` is the page that says all this, except the quality. `other_names` are
    the model's other names on the hub.
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
    other_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    needs_remote_code: bool = False


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
    """Return the model of this name, other name or alias; upper and lower case are the same."""
    for known in read_catalog():
        if name.lower() in map(str.lower, (known.name, known.alias, *known.other_names)):
            return known
    return None


def resolve_alias(name: str) -> str:
    """Return the whole name that an alias stands for; return anything else unchanged.

    Other names on the hub stay: the model may be cached under one of them.
    """
    known = find_known(name)
    return known.name if known is not None and known.alias == name.lower() else name


def suggest_names(name: str, others: Iterable[str] = ()) -> list[str]:
    """Return at most three names, of known models or `others`, that a mistyped name may stand for."""
    from difflib import get_close_matches

    catalog = read_catalog()
    names = (*others, *(known.name for known in catalog), *(known.alias for known in catalog))
    candidates = {one.lower(): one for one in names if one != name}
    return [candidates[match] for match in get_close_matches(name.lower(), candidates)]
