#!/bin/sh
# LSQ, BR and two remedies against oscillation, for MobileNetV2.
exec python -m brsweep.train sweep=method_table_mobilenet "$@"
