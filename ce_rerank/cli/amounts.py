"""Numbers as people write them."""

from __future__ import annotations


def describe_count(count: int | None) -> str:
    """Write a number of parameters as people do: 22.7M, 568M, 1.5B; empty for none."""
    if not count:
        return ""
    for scale, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= scale:
            value = count / scale
            return f"{value:.0f}{unit}" if value >= 100 else f"{value:.3g}{unit}"
    return str(count)


def describe_size(size_bytes: int) -> str:
    """Write a size on the disk in kB, MB or GB, which are powers of ten as in file managers."""
    for scale, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size_bytes >= scale:
            value = size_bytes / scale
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{size_bytes} B"
