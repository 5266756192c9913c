"""A finished run's network outside of training: loaded and used, or written in forms that others read.

    load.py         a run's folder -> the network in evaluation mode, with what it takes and what its outputs mean
    pictures.py     images as people have them -> what the network takes
"""
