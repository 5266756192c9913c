"""One run: its folder, what it is before anything is trained, its execution, its result, its state, its words.

    folder.py       the run's folder: the only reader and writer of a run's files
    files.py        files of a folder that are read with a check and written whole
    run.py          a run that is known by its configuration and has a place
    execution.py    answer from a finished run, go on with a broken one, or begin
    reporter.py     where the records of a run's stages go
    result.py       what a finished run reports
    status.py       what a run is doing, read from its folder
    words.py        a run in words: name, tags, the lines that open its console

Nothing here imports torch before a training begins, and nothing knows of sweeps.
"""
