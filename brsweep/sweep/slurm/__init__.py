"""A sweep on a SLURM cluster: its tasks as dependent job arrays, submitted, requeued and logged by submitit.

    arrays.py    tasks with one parent are one array, which waits for the parent's job and holds no node meanwhile
    request.py   what each job asks of the cluster
    submit.py    which tasks have no job in the queue; their jobs, and the record of them, <sweep>/slurm.json
    job.py       what runs on the compute node: the task, and a note of the node that it ran on
    queue.py     what squeue, and sacct where there is accounting, say of jobs
    watch.py     what became of each task, by its job and by what is on disk
    launch.py    all of it, for one command

The queue keeps the sweep, not this process: it may end at any time, and the next one finds the jobs by the record.
Whether a task is done is asked of the disk, never of SLURM, so a job that ends without a word is one that was killed.
"""
