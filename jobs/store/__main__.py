"""`python -m jobs.store`."""

from jobs.store import app

app()
