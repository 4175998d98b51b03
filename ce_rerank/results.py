"""What came of a query's documents: logits of passages to scores of documents, and those to a ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .errors import UnavailableError, told_from
from .passages import pool_scores
from .ranking import first_not_finite, select_top
from .reading import Reading
from .types import Candidates, Coverage, Document, Passage, RankedDocument, Ranking, RankOptions


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of a document or of one passage of it: a logit, in the end on the scale asked for."""

    score: float
    tokens: int
    truncated: bool
    characters_read: int
    passage: tuple[int, int, int] | None
    """The start, end and line of the one that was read; its text is in the document."""
    is_blank: bool = False
    """Whether there was nothing to score."""


def score_reading(reading: Reading, logit: float) -> Scored:
    """Take the logit of what was read of a document."""
    row, passage = reading.tokens, reading.passage
    if passage is None:
        return Scored(logit, len(row), row.truncated, row.characters_read, None)
    place = (passage.start, passage.end, passage.line)
    return Scored(logit, len(row), row.truncated, passage.start + row.characters_read, place)


def blank_document(text: str) -> Scored:
    """Return what stands for a document that is not scored."""
    return Scored(-math.inf, 0, False, len(text), None, is_blank=True)


def pool_passages(parts: Sequence[Scored], characters: int, options: RankOptions) -> Scored:
    """Make a score of the passages' of a document of so many characters; the best one stands for it."""
    logits = [part.score for part in parts]
    bad = first_not_finite(logits)
    if bad is not None:
        return parts[bad]  # the best of the others must not hide it
    score, best = pool_scores(logits, options.pool)
    read = max(part.characters_read for part in parts)
    truncated = read < characters or any(part.truncated for part in parts)
    return replace(parts[best], score=score, truncated=truncated, characters_read=read)


def select_results(candidates: Candidates, scored: Sequence[Scored], options: RankOptions) -> Ranking:
    """Rank a query's documents by what came of each, and keep those that the options ask for.

    Raises UnavailableError, naming the document, for a score that is no number.
    """
    scores = [one.score for one in scored]
    bad = first_not_finite([0.0 if one.is_blank else one.score for one in scored])
    if bad is not None:
        raise UnavailableError(
            f"The model gave {scores[bad]} for {name_document(candidates.documents[bad], bad)}: no score.",
            hint="Give --precision fp32; if it stays, the model is damaged.",
        )
    places = select_top(scores, top_k=options.top_k, min_score=options.min_score)
    results = tuple(
        RankedDocument(
            document=candidates.documents[place],
            index=place,
            rank=rank,
            score=scored[place].score,
            tokens=scored[place].tokens,
            truncated=scored[place].truncated,
            characters_read=scored[place].characters_read,
            passage=_passage(candidates.documents[place], scored[place]),
        )
        for rank, place in enumerate(places, start=1)
    )
    return Ranking(candidates.query, results, _coverage(candidates.documents, scored))


def _passage(document: Document, scored: Scored) -> Passage | None:
    if scored.passage is None:
        return None
    start, end, line = scored.passage
    return Passage(document.text[start:end], start, end, line)


def _coverage(documents: Sequence[Document], scored: Sequence[Scored]) -> Coverage:
    cut = [(document, one) for document, one in zip(documents, scored, strict=True) if one.truncated]
    return Coverage(
        documents=len(documents),
        truncated=len(cut),
        cut_characters=sum(len(document.text) for document, _ in cut),
        read_characters=sum(one.characters_read for _, one in cut),
        blank=sum(one.is_blank for one in scored),
    )


def name_document(document: Document, place: int) -> str:
    """Say which document it is, by where it came from, its place in its list and its id."""
    name = "" if document.id is None else f" (id {document.id})"
    return told_from(document.origin, f"document {place}{name}")
