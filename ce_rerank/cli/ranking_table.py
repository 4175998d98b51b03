"""What a ranking looks like on a terminal: few lines, no boxes, and nothing that a document could break."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..types import RankedDocument, Ranking
from .console import clean_text
from .excerpt import QueryWords, make_excerpt

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# A text column narrower than this is worse than text below the other columns.
_MIN_TEXT_WIDTH = 36
_GAP = "  "


def draw_ranking(
    ranking: Ranking, console: Console, *, details: bool = False, with_text: bool = True
) -> None:
    """Draw a ranking: rank, score, a bar for where it lies among those shown, the id, the text.

    Of a long text the part that says most about the query is shown, with the query's words picked out; of a
    chunked document the best passage, and `id:line`. `details` adds how many tokens the model was fed and
    which texts were cut. Where there is no room for text beside the rest, it goes below.
    """
    from rich.text import Text

    lines = list(_lay_out(ranking, console, details, with_text)) if ranking.results else []
    if len(ranking) < ranking.coverage.documents:
        lines.append(Text(f"{len(ranking) or 'none'} of {ranking.coverage.documents:,} documents", "dim"))
    elif not ranking.results:
        lines.append(Text("no documents", "dim"))
    for line in lines:
        line.rstrip()
    console.print(Text("\n").join(lines), soft_wrap=True)


def _lay_out(ranking: Ranking, console: Console, details: bool, with_text: bool) -> Iterator[Text]:
    """Give a ranking's lines: the head of each entry with its text beside it or, for want of room, below."""
    from rich.text import Text

    columns = _make_columns(ranking, console, details, with_text)
    heads = [Text(_GAP).join(cells) for cells in zip(*columns, strict=True)]
    margin = heads[0].cell_len + len(_GAP)
    beside = console.width - margin >= _MIN_TEXT_WIDTH
    if with_text and beside:
        heads[0].append(f"{_GAP}text", "dim")
    elif console.width < margin - len(_GAP) or with_text:
        margin = columns[0][0].cell_len + len(_GAP)
        heads = [_fold_head(cells, margin, console.width) for cells in zip(*columns, strict=True)]
    yield heads[0]
    texts = _draw_texts(ranking, console, console.width - margin) if with_text else [[]] * len(ranking)
    for head, lines in zip(heads[1:], texts, strict=True):
        if beside and lines:
            head.append(_GAP).append_text(lines.pop(0))
        yield head
        for line in lines:
            yield Text(" " * margin).append_text(line)


def _fold_head(cells: Sequence[Text], margin: int, width: int) -> Text:
    """Join the cells of a head that has a line to itself; the last, an id, goes below if it does not fit."""
    from rich.text import Text

    head = Text(_GAP).join(cells[:-1])
    name = cells[-1].copy()
    name.rstrip()
    if head.cell_len + len(_GAP) + name.cell_len <= width:
        return head.append(_GAP).append_text(name)
    head.rstrip()
    return head.append("\n" + " " * margin).append_text(name)


def _make_columns(ranking: Ranking, console: Console, details: bool, with_text: bool) -> list[list[Text]]:
    """Make the columns that stand before the text: a header and a cell a document, all of one width."""
    scores = [result.score for result in ranking]
    columns = [
        _pad_column("", [str(result.rank) for result in ranking], "dim", right=True),
        _pad_column("score", _format_scores(scores), right=True),
        _pad_column("", _draw_bars(scores, 16 if console.width >= 100 else 10, console), "cyan"),
    ]
    if details:
        columns.append(_pad_column("tokens", [str(result.tokens) for result in ranking], "dim", right=True))
        if any(result.truncated for result in ranking):
            columns.append(
                _pad_column("", ["cut" if result.truncated else "" for result in ranking], "yellow")
            )
    names = [_make_name(result, console.encoding) for result in ranking]
    if any(names):
        columns.append(_pad_column("id", names, "cyan"))
    elif not with_text:
        columns.append(_pad_column("index", [str(result.index) for result in ranking], "cyan"))
    return columns


def _pad_column(header: str, cells: Sequence[str], style: str = "", *, right: bool = False) -> list[Text]:
    from rich.cells import cell_len
    from rich.text import Text

    width = max(map(cell_len, (header, *cells)))
    column = []
    for place, cell in enumerate((header, *cells)):
        space = " " * (width - cell_len(cell))
        column.append(Text(space + cell if right else cell + space, style if place else "dim"))
    return column


def _format_scores(scores: Sequence[float]) -> list[str]:
    """Write scores with as few decimals, from three to six, as show that different neighbours differ."""
    for decimals in range(3, 7):
        written = [f"{score:.{decimals}f}" for score in scores]
        if all(
            text != next_text or score == next_score
            for text, next_text, score, next_score in zip(
                written, written[1:], scores, scores[1:], strict=False
            )
        ):
            break
    return written


def _draw_bars(scores: Sequence[float], width: int, console: Console) -> list[str]:
    """Draw a bar for each score, in half cells: one half for the lowest, all of `width` for the highest."""
    full, half = ("\u2501", "\u2578") if _can_show("\u2501\u2578", console) else ("=", "=")
    lowest, spread = min(scores), max(scores) - min(scores)
    bars = []
    for score in scores:
        halves = 1 + round((2 * width - 1) * ((score - lowest) / spread if spread else 1.0))
        bars.append(full * (halves // 2) + half * (halves % 2))
    return bars


def _can_show(characters: str, console: Console) -> bool:
    """Tell whether the terminal's encoding and font have the characters."""
    try:
        characters.encode(console.encoding)
    except UnicodeEncodeError:
        return False
    return not console.legacy_windows


def _make_name(result: RankedDocument, encoding: str) -> str:
    """Name a document by its id and, where it was read in windows, the best passage's line."""
    name = "" if result.id is None else clean_text(str(result.id), encoding)
    if result.passage is None:
        return name
    line = result.passage.line
    if name:
        return f"{name}:{line}"
    # The line is the document's own: of one that is a line itself it would say nothing.
    return f"line {line}" if line > 1 else ""


def _draw_texts(ranking: Ranking, console: Console, width: int) -> Iterator[list[Text]]:
    """Give the lines that are shown of each document: of what the model read, the part that says most."""
    from rich.text import Text

    width = max(width, 10)
    words = QueryWords(ranking.query.text)
    ellipsis = "\u2026" if _can_show("\u2026", console) else "..."
    style = "bold underline" if console.no_color else "bold magenta"
    max_lines = max(2, min(5, 300 // width))
    for result in ranking:
        text = result.text[: result.characters_read] if result.truncated else result.text
        text = clean_text(result.passage.text if result.passage else text, console.encoding)
        excerpt = make_excerpt(text, words, width=width, max_lines=max_lines, ellipsis=ellipsis)
        lines = []
        for line in excerpt:
            lines.append(Text(line.text))
            for start, end in line.marks:
                lines[-1].stylize(style, start, end)
        yield lines
