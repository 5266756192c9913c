"""Seeds until a difference is settled, `seed=auto`: how many seeds each row of a grid gets, found while it trains.

    sequential.py   the statistics: a t test that is looked at after every seed
    rounds.py       the sweep in rounds: train, look, go on with the rows that are undecided
"""
