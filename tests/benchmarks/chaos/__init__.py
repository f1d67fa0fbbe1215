"""Real faults on a real cluster of several Ray nodes, and the store that comes of it compared with an undisturbed one.

`python -m tests.benchmarks.chaos` runs it; `tests/faults/test_chaos_short.py` runs a short version of the same code.
"""
