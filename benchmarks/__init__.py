"""Benchmarks: run, not asserted. `python -m benchmarks.step` times whole training steps, `benchmarks.report` a report."""
