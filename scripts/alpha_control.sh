#!/bin/sh
# Who moves the step sizes in the last stage: the task, the task and BR, or nobody. Two of the four are one run.
exec python -m brsweep.train sweep=alpha_control "$@"
