"""A sweep on a SLURM cluster: its tasks as dependent job arrays, submitted, requeued and logged by submitit.

    cluster.py   what each job asks of the cluster, and what squeue, and sacct where there is accounting, say of jobs
    jobs.py      which tasks have no job in the queue; their job arrays and the record of them; what runs on the node
    engine.py    all of it for one launch, and what became of each task, by its job and by what is on disk
"""
