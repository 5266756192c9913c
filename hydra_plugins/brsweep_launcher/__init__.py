"""brsweep's launchers and its sweeper, where Hydra looks for them.

Hydra runs these files at every start, so they import nothing heavy; and it runs them before they are in sys.modules,
where dataclasses look up annotations that are text, so they do without postponed annotations.
"""
