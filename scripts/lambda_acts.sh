#!/bin/sh
# Bin Regularization on activations alone: lambda from LSQ (0) to strong, with three seeds.
exec python -m brsweep.train sweep=lambda_acts "$@"
