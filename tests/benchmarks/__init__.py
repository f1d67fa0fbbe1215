"""Measurements: `python -m tests.benchmarks.NAME` ends with one JSON line on stdout."""
