"""A SLURM of one machine for the tests: munged, slurmctld and slurmd of our own in one folder, on the loopback alone.

It needs root and the Debian packages slurm-wlm and munge; `missing` says what is not there. Memory limits are enforced
by polling, since there are no cgroups; GPUs are links to /dev/null, counted and handed out as real ones.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "squeue", "sinfo")
PLACES = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
CONF = """\
ClusterName=tests
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={home}/run/munge.socket,cred_expire=15
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/run/slurmctld.pid
SlurmdPidFile={home}/run/slurmd.pid
SlurmctldLogFile={home}/log/slurmctld.log
SlurmdLogFile={home}/log/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={home}/log/jobcomp.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=60
InactiveLimit=0
KillWait=20
MinJobAge=3600
JobRequeue=1
GresTypes=gpu
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={node} Default=YES DefaultTime=30 MaxTime=1440 DefMemPerCPU=500 State=UP
PartitionName=gpu Nodes={node} DefaultTime=30 MaxTime=1440 DefMemPerCPU=500 State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    lost = [name for name in PROGRAMS if not shutil.which(name, path=PLACES)]
    if lost:
        return f"no SLURM here: {', '.join(lost)} missing (Debian: apt-get install slurm-wlm munge)"
    if os.getuid():
        return "a cluster of one's own needs root"
    if not socket.gethostbyname(socket.gethostname()).startswith("127."):
        return f"{socket.gethostname()} is no name of 127.0.0.1 here, so the daemons would listen to others"
    return None


class Cluster:
    """Started on entry, stopped on exit with all its jobs. `home` must be short: sockets' paths end at 107 characters.

    `environment` is what commands need to talk to it.
    """

    def __init__(self, home: Path, cpus: int = 4, memory: int = 8000, gpus: int = 2):
        self.home, self.cpus, self.memory, self.gpus = home, cpus, memory, gpus
        self.node = socket.gethostname().partition(".")[0]
        self.environment = {"SLURM_CONF": str(home / "etc/slurm.conf"), "PATH": f"{home / 'bin'}{os.pathsep}{PLACES}"}

    def __enter__(self) -> "Cluster":
        for name in ("etc", "run", "log", "state", "spool", "dev", "bin"):
            (self.home / name).mkdir(parents=True)
        for index in range(self.gpus):
            (self.home / f"dev/gpu{index}").symlink_to("/dev/null")  # slurmd wants a device each
        (self.home / "etc/gres.conf").write_text(f"Name=gpu File={self.home}/dev/gpu[0-{self.gpus - 1}]\n")
        about = {"node": self.node, "ports": ports(2), "home": self.home}
        sizes = {"cpus": self.cpus, "memory": self.memory, "gpus": self.gpus}
        (self.home / "etc/slurm.conf").write_text(CONF.format(**about, **sizes))
        key = self.home / "etc/munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        self._wrap()
        try:
            run = self.home / "run"
            places = [f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid", f"--seed-file={run}/munged.seed"]
            self.call("munged", f"--key-file={key}", *places, f"--log-file={self.home}/log/munged.log")
            self._wait("munged", lambda: (run / "munge.socket").exists())
            self.call("slurmctld", "-i")
            self.call("slurmd")
            self._wait("slurmd", lambda: "idle" in self.call("sinfo", "-h", "-o", "%T", check=False).split())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for job in self.call("squeue", "-h", "-o", "%A", check=False).split():
            self.call("scancel", "-s", "KILL", job, check=False)
        for name in ("slurmd", "slurmctld", "munged"):
            file = self.home / f"run/{name}.pid"
            pid = int(file.read_text()) if file.is_file() and file.read_text().strip() else None
            if pid:
                _end(pid)

    def call(self, *words: str, check: bool = True) -> str:
        """Output of a command of the cluster."""
        own = os.environ | self.environment
        done = subprocess.run(words, env=own, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    def queue(self) -> list[str]:
        """Names of jobs that wait or run."""
        return self.call("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%j").split()

    def finished(self) -> list[str]:
        """One line a job that has ended, as SLURM's text log has it."""
        file = self.home / "log/jobcomp.log"
        return file.read_text().splitlines() if file.is_file() else []

    def _wrap(self) -> None:
        """Inside a job Snakemake's plug-in takes all SLURM_ variables away, so the programs themselves must know."""
        for name in PROGRAMS:
            path = self.home / "bin" / name
            path.write_text(f'#!/bin/sh\nexport SLURM_CONF={self.home}/etc/slurm.conf\nexec {_real(name)} "$@"\n')
            path.chmod(0o755)

    def _wait(self, what: str, ready: Callable[[], bool], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not ready():
            log = self.home / f"log/{what}.log"
            told = log.read_text()[-2000:] if log.is_file() else ""
            assert time.monotonic() < end, f"{what} is not up: {told}"
            time.sleep(0.1)


def _real(name: str) -> str:
    return shutil.which(name, path=PLACES)


def ports(count: int) -> list[int]:
    """Free ports of the loopback."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _end(pid: int) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, sign)
            for _ in range(50):
                os.kill(pid, 0)
                time.sleep(0.1)
        except ProcessLookupError:
            return
