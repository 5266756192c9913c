#!/bin/sh
# LSQ, BR and methods that it competes with.
exec python -m brsweep.train sweep=method_table "$@"
