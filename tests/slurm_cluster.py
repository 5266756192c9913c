"""A SLURM cluster of one node on loopback, for tests: as root, without systemd and cgroups, all its files in a folder.

Nothing of the machine's own is used: munged has its own key and socket, the daemons their own configuration and ports.
They run in the foreground, as children of the test, which ends them by their ids. With `accounting` a MariaDB and
slurmdbd come with it. Debian: slurm-wlm, munge; for accounting also slurmdbd, mariadb-server.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb", "sacctmgr")
START_S = 90.0

SLURM_CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
{accounting}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
KillWait=2
MaxArraySize=11
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={dbd_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser=root
StorageLoc=slurm_acct_db
PidFile={folder}/slurmdbd.pid
"""


@dataclass(frozen=True)
class Cluster:
    """env: what a process needs to speak to it."""

    env: dict[str, str]
    accounting: bool

    def call(self, *command: str) -> str:
        """The command's output; raises where it fails."""
        env = {**os.environ, **self.env}
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60).stdout


def why_not(accounting: bool) -> str | None:
    """Why no cluster can be started here, or None."""
    if os.geteuid():
        return "SLURM's daemons are started as root"
    missing = [name for name in PROGRAMS + (ACCOUNTING if accounting else ()) if not shutil.which(name)]
    return f"not installed: {', '.join(missing)}" if missing else None


@contextmanager
def one_node(folder: Path, accounting: bool) -> Iterator[Cluster]:
    """A cluster whose files are in `folder`, which has to be short enough for a socket's name."""
    ports = dict(zip(("ctld_port", "d_port", "dbd_port", "db_port"), _free_ports(4), strict=True))
    about = {"folder": folder, "host": socket.gethostname().split(".")[0], "cpus": os.cpu_count(), **ports}
    storage = "AccountingStorageType=accounting_storage/none"
    if accounting:
        storage = "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=localhost\n"
        storage += f"AccountingStoragePort={ports['dbd_port']}\nAccountingStoragePass={folder}/munge.socket"
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(SLURM_CONF.format(accounting=storage, **about))
    cluster = Cluster({"SLURM_CONF": str(folder / "slurm.conf")}, accounting)
    with ExitStack() as stack:

        def daemon(*command: str) -> None:
            stack.enter_context(_daemon(folder, command))

        _start_munge(folder, daemon)
        if accounting:
            _start_accounting(folder, about, daemon, cluster)
        daemon("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        daemon("slurmd", "-D", "-f", str(folder / "slurm.conf"))
        _until(lambda: "idle" in cluster.call("sinfo", "--noheader", "--format=%t"), "the node is idle", folder)
        yield cluster
        cluster.call("scancel", "--quiet", "--full", "--user=root")
        with suppress(AssertionError):
            _until(lambda: not cluster.call("squeue", "--noheader"), "no job is left", folder)


def _start_munge(folder: Path, daemon: Callable[..., None]) -> None:
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder}/munge.{name}" for option, name in places.items()]
    daemon("munged", "--foreground", "--force", *options)
    _until((folder / "munge.socket").exists, "munged listens", folder)


def _start_accounting(folder: Path, about: dict, daemon: Callable[..., None], cluster: Cluster) -> None:
    conf = folder / "slurmdbd.conf"  # slurmdbd and its clients look for it beside slurm.conf
    conf.touch(mode=0o600)
    conf.write_text(DBD_CONF.format(**about))
    data = ("--no-defaults", f"--datadir={folder}/db", "--user=root")
    subprocess.run(["mariadb-install-db", *data], check=True, capture_output=True, timeout=120)
    daemon(
        "mariadbd", *data, f"--socket={folder}/db.socket", "--bind-address=127.0.0.1", f"--port={about['db_port']}",
        "--skip-grant-tables", "--innodb-buffer-pool-size=32M",
    )  # fmt: skip
    _until(lambda: _opens(about["db_port"]), "MariaDB listens", folder)
    daemon("slurmdbd", "-D")
    _until(lambda: _opens(about["dbd_port"]), "slurmdbd listens", folder)
    cluster.call("sacctmgr", "--immediate", "add", "cluster", "loopback")


@contextmanager
def _daemon(folder: Path, command: Sequence[str]) -> Iterator[None]:
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with open(folder / f"{command[0]}.log", "ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(met: Callable[[], bool], what: str, folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
            if met():
                return
        time.sleep(0.2)
    ends = [f"{log.name}: {log.read_text(errors='replace')[-300:]}" for log in sorted(folder.glob("*.log"))]
    raise AssertionError("\n".join([f"after {START_S:.0f} s not yet: {what}", *ends]))


def _opens(port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
