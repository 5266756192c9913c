"""A worker without torch: does what its task's configuration says under `act`, in the place of brsweep.sweep.local.

A dict of actions by try (the last one goes on): "finish", "exit N", "signal N", "raise", "sleep".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from brsweep.runs.folder import RunFolder
from brsweep.stages.store import Store
from brsweep.sweep.local import first_line, follow_launcher


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it
    task = json.loads(first_line(0))
    threading.Thread(target=follow_launcher, daemon=True).start()
    config, upto = task["config"], task["upto"]
    folder = Path(config["output_dir"]) / config["sweep_name"] / config["fake_name"]
    if upto is not None:
        folder = folder.parent / "stages" / f"warmup-{upto}"
    with open(folder.parent.parent / "order.txt" if upto else folder.parent / "order.txt", "a") as file:
        file.write(f"{folder.name} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')} ")
        file.write(f"{os.environ.get('OMP_NUM_THREADS', '-')}\n")
    acts = config["act"]["shared" if upto else "run"]
    tries = folder / "tries"
    count = int(tries.read_text()) if tries.exists() else 0
    tries.write_text(str(count + 1))
    act, _, number = acts[min(count, len(acts) - 1)].partition(" ")
    if act == "finish,":
        RunFolder(folder).write_result({"status": "finished", "test_accuracy": 0.5, "val_accuracy": 1})
        act, _, number = number.partition(" ")
    if act == "sleep":
        time.sleep(60)
    elif act == "signal":
        os.kill(os.getpid(), int(number))
    elif act == "exit":
        sys.exit(int(number))
    elif act == "raise":
        (folder / "failure.json").write_text(json.dumps({"cause": "ValueError: no", "log": "console.log"}))
        sys.exit(1)
    elif upto is None:
        RunFolder(folder).write_result({"status": "finished", "test_accuracy": 0.5, "val_accuracy": 1})
    else:
        store = Store(Path(config["store_dir"]))
        store.partial(upto).mkdir(parents=True)
        (store.partial(upto) / "state.pt").write_bytes(b"state")
        store.publish(upto, {"stage": "warmup", "trained_by": folder.name})


main()
