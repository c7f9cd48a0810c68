"""``python -m poster_edge``: the same as the ``poster-edge`` command."""

from poster_edge.cli.main import main

main()
