#!/bin/sh
# One table: per bit-width LSQ alone, BR on weights (what the paper regularizes), and BR on weights and activations.
exec python -m brsweep.train sweep=paper_table "$@"
