"""``python -m barrier_core`` is the ``barrier`` command."""

from barrier_core.cli import main

main(prog_name="barrier")
