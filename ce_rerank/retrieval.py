"""BM25: choose the documents that are worth a cross-encoder's time.

bm25s scores (Lucene's variant, k1 1.5, b 0.75). We split texts into words, since bm25s drops words of one
character: a word is a run of letters and digits, case folded and stemmed, or two characters in a script
without spaces and in Hangul, whose words have endings. There, single characters are indexed too, for queries
of one. nDCG@10 was 0.6865 for scifact with English stems and 0.6646 without, 0.3600 and 0.3345 for
Cranfield; k1 0.9 with b 0.4 is worse on both.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np

from .errors import UsageError, missing_package
from .types import Candidates, RankOptions

try:
    import bm25s
    import Stemmer
except ImportError as error:
    raise missing_package(f"--bm25 needs {error.name}.", "bm25") from None

_K1, _B = 1.5, 0.75
_PART_WORDS, _PART_STEP = 200, 100  # if long documents are scored by passages, BM25 scores their parts

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Kana, Han
    "\uac00-\ud7af"  # Hangul
)
_WORDS = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def languages() -> list[str]:
    """Return the languages whose words can be stemmed, and `none`."""
    return [*Stemmer.algorithms(), "none"]


class Bm25Index:
    """An index of texts by their words.

    `language` is one of `languages()`. The texts are not kept: memory is about 16 bytes for each different
    word of each text. Raises UsageError for an unknown language.
    """

    def __init__(self, texts: Iterable[str], *, language: str = "english") -> None:
        if language not in languages():
            raise UsageError(
                f"There are no stems for the language {language!r}.", hint=f"Give {', '.join(languages())}."
            )
        self._stem: Callable[[str], str] = str if language == "none" else Stemmer.Stemmer(language).stemWord
        self._stem_ids: dict[str, int] = {}
        learn = cache(lambda word: self._stem_ids.setdefault(self._stem(word), len(self._stem_ids)))
        corpus = [array("i", map(learn, _split_words(text, singles=True))) for text in texts]
        self._bm25 = bm25s.BM25(method="lucene", k1=_K1, b=_B)
        if self._stem_ids:
            self._bm25.index((corpus, self._stem_ids), create_empty_token=False, show_progress=False)

    def search(self, query: str, limit: int) -> list[tuple[int, float]]:
        """Return the places and scores of at most `limit` texts, best first; equal scores keep their order.

        A text that shares no word with the query is never among them.
        """
        stems = map(self._stem, _split_words(query))
        known = [self._stem_ids[stem] for stem in stems if stem in self._stem_ids]
        if not known:
            return []
        scores = self._bm25.get_scores_from_ids(known)
        found = np.flatnonzero(scores > 0)
        if len(found) > limit:
            # Keep all that equal the last one, until they are sorted.
            least = np.partition(scores[found], -limit)[-limit]
            found = found[scores[found] >= least]
        best = found[np.argsort(-scores[found], kind="stable")][:limit]
        return [(int(place), float(scores[place])) for place in best]


def choose(candidates: Candidates, options: RankOptions) -> Candidates:
    """Return the `options.bm25` documents that BM25 finds best, in the order of the input; there may be none.

    If long documents are scored by passages, a document counts as its best part.
    """
    assert options.bm25 is not None
    cut = _cut_parts if options.long == "chunk" else lambda text: [text]
    parts = [(place, part) for place, one in enumerate(candidates.documents) for part in cut(one.text)]
    index = Bm25Index((part for _, part in parts), language=options.bm25_language)
    best: dict[int, float] = {}
    for number, score in index.search(candidates.query.text, len(parts)):
        if len(best) == options.bm25:
            break
        best.setdefault(parts[number][0], score)
    places = sorted(best)
    return replace(
        candidates.only(places),
        first_scores=[best[place] for place in places],
        left_out=len(candidates.documents) - len(places),
    )


def _cut_parts(text: str) -> list[str]:
    """Cut a text into overlapping parts of some words each."""
    words = text.split()
    return [
        " ".join(words[start : start + _PART_WORDS])
        for start in range(0, max(1, len(words) - _PART_STEP), _PART_STEP)
    ]


def _split_words(text: str, *, singles: bool = False) -> Iterator[str]:
    for run in _WORDS.findall(text.casefold()):
        if len(run) > 1 and _IS_UNSPACED.match(run):
            yield from (first + second for first, second in pairwise(run))
            if singles:
                yield from run
        else:
            yield run
