"""Many runs: from the points of a grid to a plan, the tree of what its runs share, the engines that do it, its status.

    plan.py         points of a grid -> runs, each once, and what is to do
    compared.py     which run is compared with which
    seeds/          how many seeds each row gets, where the launcher finds out
    tree.py         what the runs share, as tasks: a child after its parent
    manifest.py     sweep.json: which runs a sweep is made of
    shared.py       the shared stages as their folders tell, and the runs that wait for them
    local.py        a sweep on this machine: a process per task
    slurm/          a sweep on a cluster: tasks as dependent job arrays
    pace.py         how long what is left will take
    screen.py       what a launcher shows while it works
    cleanup.py      the store of shared stages, and what no unfinished run needs of it
    sync.py         give W&B what it lacks

Nothing here imports torch.
"""
