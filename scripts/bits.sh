#!/bin/sh
# LSQ and the default BR at 2, 3 and 4 bits.
exec python -m brsweep.train sweep=bits "$@"
