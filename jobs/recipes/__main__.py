"""``python -m jobs.recipes``."""

from jobs.recipes.listing import cli

cli()
