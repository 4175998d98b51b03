"""The pairs whose reference scores a compiled model must give before it may serve.

Our own sentences: of several lengths, relevant and not, in several scripts, one longer than what most models
read. Changing them changes every manifest, and so what is in users' caches: raise the manifest's format.
"""

from __future__ import annotations

_LONG_DOCUMENT = " ".join(
    f"Entry {number}: the keeper noted the wind, the height of the water and the ships that passed; "
    f"on day {number * 7 % 365} the lamp was cleaned and {number % 9 + 1} litres of oil were used."
    for number in range(1, 24)
)

GOLDEN_TEXTS: tuple[tuple[str, str], ...] = (
    ("how do tides work", "Tides rise and fall because the moon's gravity pulls the oceans."),
    ("how do tides work", "Bread needs flour, water, salt and time."),
    (
        "what does a lighthouse keeper do all day",
        "A keeper trims the wick, winds the clockwork that turns the lens, cleans the glass, pumps oil and "
        "writes the weather into the log. Visitors ask about storms; most days are about polish and paint.",
    ),
    ("what does a lighthouse keeper do all day", _LONG_DOCUMENT),
    (
        "warum ist der Himmel blau?",
        "Das Licht der Sonne wird an den Molekülen der Luft gestreut, blaues stärker als rotes — deshalb "
        "erscheint uns der Himmel tagsüber blau und abends rötlich.",
    ),
    ("潮汐是怎么形成的？", "月球的引力牵动海水，所以海面每天涨落两次。🌊"),
    ("python list sort", "sorted(xs, key=len, reverse=True) gives a new list; xs.sort() changes xs itself."),
    ("what does [SEP] mean", "[CLS] a [SEP] b </s> <s> c <|endoftext|> d: tokens of [MASK] and <mask>."),
    ("7", "?"),
)
