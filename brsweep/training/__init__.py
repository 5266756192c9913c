"""Training one stage of one network: the step, the epochs, optimizers, evaluation, checkpoints, measurements."""
