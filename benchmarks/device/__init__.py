"""What can only be learnt on a GPU, by one command of a few minutes: see `__main__`."""
