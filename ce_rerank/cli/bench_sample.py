"""The documents that `ce-rerank bench` measures with unless it is given some: made of sentences, seeded."""

from __future__ import annotations

import random

_SENTENCES = (
    "The harbour master writes the height of the tide into a ledger twice a day.",
    "Bees find their way home by the angle of the sun, and by memory when it is overcast.",
    "A loaf that is cut while it is hot goes stale sooner than one left to cool on a rack.",
    "The old bridge was closed in spring because two of its piers had begun to sink.",
    "Salt was once so dear that roads were named after it.",
    "When the night train was late, the station café stayed open and lent out blankets.",
    "Copper roofs turn green within a few decades, faster near the sea.",
    "The survey counted forty kinds of moss on a single wall of the abbey.",
    "A lens of ice focuses sunlight well enough to light dry grass.",
    "In a drought the oaks drop their smallest branches first.",
    "The translators agreed on a common list of terms before they began the second volume.",
    "Glaciers carry boulders far from where they broke loose and set them down in fields.",
    "Her grandfather repaired clocks and could name the town's church bells with his eyes shut.",
    "The library lends seeds in spring and takes them back in autumn.",
    "A kite flies steadier with a longer tail, but it climbs more slowly.",
    "Compressed air drives the drill, and the same hose blows the dust out of the hole.",
    "The ferry turns around in a basin that was dug for ships a quarter of its length.",
    "Cheese ripens in the cellar for a year, turned by hand every week.",
    "The first telephone line in the valley ran along the fence posts.",
    "Ravens remember a face that has wronged them for years.",
    "Concrete goes on hardening long after the formwork has been taken away.",
    "On clear nights the desert gives back its heat within an hour of sunset.",
    "The map showed a well where there was only a ring of stones.",
    "A cello is tuned an octave below a viola, string for string.",
    "Fog forms over the river when cold air slides down from the hills.",
    "The committee measured noise at the runway's end for three weeks in June.",
    "Woollen coats shed rain for a while because of the grease that is left in the fibre.",
    "Eels cross wet meadows at night to get from one pond to another.",
    "The archive keeps its photographs on glass in drawers lined with felt.",
    "Pressing the pedal halfway lets the note fade instead of ending it.",
    "A mill on this stream ground flour in winter and sawed planks in summer.",
    "Streetlights that point downwards use less power and leave the stars to be seen.",
)
_PASSAGE_SENTENCES = (3, 8)
_QUERY_WORDS = 8
_QUERY_CHARACTERS = 60  # where words are not parted by spaces


def sample_lists(queries: int, documents: int) -> list[tuple[str, list[str]]]:
    """Make queries with documents each, of about 95 tokens; the same ones every time."""
    chance = random.Random(20)
    lists = []
    for _ in range(queries):
        query = " ".join(chance.choice(_SENTENCES).rstrip(".").split()[:_QUERY_WORDS])
        passages = [
            " ".join(chance.sample(_SENTENCES, chance.randint(*_PASSAGE_SENTENCES))) for _ in range(documents)
        ]
        lists.append((query, passages))
    return lists


def lists_of(texts: list[str], queries: int) -> list[tuple[str, list[str]]]:
    """Make queries of a person's own documents: the beginnings of some of them, each with its share."""
    share = -(-len(texts) // queries)
    shares = [texts[start : start + share] for start in range(0, len(texts), share)]
    return [(_beginning(documents[0]) or "?", documents) for documents in shares]


def _beginning(text: str) -> str:
    return " ".join(text[: 10 * _QUERY_CHARACTERS].split()[:_QUERY_WORDS])[:_QUERY_CHARACTERS]
