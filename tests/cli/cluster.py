"""A real Slurm of two nodes on this machine, in a folder of its own and on ports of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.runtime.conftest import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel", "sinfo")
PATH = f"{os.environ['PATH']}:/usr/sbin"  # of the daemons
_TIMEOUT_S = 60


class Cluster:
    """Its daemons, as children of this process. `config` is what `SLURM_CONF` names."""

    def __init__(self, nodes: int = 2) -> None:
        self.nodes = nodes
        # the daemon of munge takes no folder that others can write to, and sockets have short names
        self.folder = Path(tempfile.mkdtemp(prefix="lora-slurm-"))
        self.host = socket.gethostname().split(".")[0]
        self.node = "node1"
        self.config = self.folder / "slurm.conf"
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        (self.folder / "state").mkdir()
        for number in range(self.nodes):
            (self.folder / f"spool-node{number + 1}").mkdir()
        (self.folder / "key").write_bytes(os.urandom(128))
        (self.folder / "key").chmod(0o600)
        self.config.write_text(self._text(), encoding="utf-8")
        files = {name: self.folder / name for name in ("socket", "pid", "log", "seed")}
        places = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in files.items()]
        self._run("munged", "--foreground", "--force", f"--key-file={self.folder / 'key'}", *places)
        self._run("slurmctld", "-D", "-i")
        for number in range(self.nodes):
            self._run("slurmd", "-D", "-N", f"node{number + 1}")
        deadline = time.monotonic() + _TIMEOUT_S
        while self.ask("sinfo", "--noheader", "--format=%D %t", check=False).strip() != f"{self.nodes} idle":
            assert time.monotonic() < deadline, self.log()
            assert all(each.poll() is None for each in self.daemons), self.log()
            time.sleep(0.1)

    def _text(self) -> str:
        here = self.folder
        nodes = "\n".join(
            f"NodeName=node{number + 1} NodeHostname={self.host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=8"
            for number in range(self.nodes)
        )
        return f"""
ClusterName=lora
SlurmctldHost={self.host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={here}/socket
SlurmctldPort={free_port()}
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool-%n
SlurmctldPidFile={here}/ctld.pid
SlurmdPidFile={here}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=120
OverTimeLimit=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
MpiDefault=none
SwitchType=switch/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""

    def _run(self, program: str, *args: str) -> None:
        env = os.environ | {"SLURM_CONF": str(self.config), "PATH": PATH}
        with (self.folder / "daemons.log").open("ab") as log:
            self.daemons.append(subprocess.Popen([program, *args], env=env, stdout=log, stderr=log))
        deadline = time.monotonic() + _TIMEOUT_S
        while program == "munged" and not (self.folder / "socket").exists():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "daemons.log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def ask(self, *argv: str, check: bool = True) -> str:
        env = os.environ | {"SLURM_CONF": str(self.config)}
        return subprocess.run(argv, env=env, check=check, capture_output=True, text=True).stdout

    def starts_now(self, number: str, *changes: str) -> None:
        """Slurm has a job that was queued again wait for two minutes; this one waits for a few seconds.

        The node takes a credential of the same second for the one that was revoked.
        """
        while "PENDING" not in self.ask("squeue", "--noheader", "--format=%T", f"--jobs={number}"):
            time.sleep(0.1)
        self.ask("scontrol", "update", f"JobId={number}", "StartTime=now+3", *changes)

    def stop(self) -> None:
        self.ask("scancel", "--user=root", check=False)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=5)
            except subprocess.TimeoutExpired:
                # a node's daemon may wait for ever for one of its own threads
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
