"""SLURM's commands as scripts that keep what they are told and say what the test put there."""

from __future__ import annotations

from pathlib import Path

SCRIPTS = {
    "sbatch": 'test -e refuse && { cat refuse >&2; exit 1; }\nn=$(ls script-* 2>/dev/null | wc -l); n=$((n + 1))\n'
    'cp "$1" script-$n\necho "Submitted batch job $n"',
    "srun": "exit 1",
    "squeue": "test -e silent && { cat silent >&2; exit 1; }\ncat queue",
    "sacct": 'test -e accounts || { echo "Slurm accounting storage is disabled" >&2; exit 1; }\ncat accounts',
    "scancel": 'echo "$@" >>cancelled',
    "scontrol": 'echo "MaxArraySize            = 4"',
}  # fmt: skip


class FakeSlurm:
    """folder: the programs, the scripts that were submitted, `queue`, `accounts`, `refuse`, `silent`, `cancelled`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name, text in SCRIPTS.items():
            program = folder / name
            program.write_text(f'#!/bin/bash\ncd "{folder}"\n{text}\n')
            program.chmod(0o755)
        self.queue({})

    def queue(self, jobs: dict[str, str], name: str = "brsweep-s", reason: str = "None") -> None:
        """What squeue says from now on: the state of each job."""
        rows = [f"{job}|{state}|{reason}|{name}\n" for job, state in jobs.items()]
        (self.folder / "queue").write_text("".join(rows))

    def submitted(self) -> list[list[str]]:
        """The options of each script that was submitted, in order."""
        scripts = sorted(self.folder.glob("script-*"), key=lambda path: int(path.name.split("-")[1]))
        return [
            [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
            for script in scripts
        ]

    def told(self, option: str) -> list[str | None]:
        """The value of one option in each script, None where it isn't there."""
        found = [dict(line.partition("=")[::2] for line in options) for options in self.submitted()]
        return [options.get(option) for options in found]
