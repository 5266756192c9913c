"""Benchmarks: run, not asserted. `python -m benchmarks.step` times training steps, `benchmarks.report` a report."""
