"""`python -m ce_rerank`, and where the installed command starts."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line; a Ctrl-C while it is still being imported ends it quietly, too."""
    try:
        from .cli.app import main as run
    except KeyboardInterrupt:
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
