#!/bin/sh
# ReLU without a clip, at 6 and at 1.
exec python -m brsweep.train sweep=clip "$@"
