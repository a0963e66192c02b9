"""Snakemake's words in short: a line for each finished job, with its time and what is left; of a failed one its last
lines and where its log is. `make tables` uses it; Snakemake finds it by its name (PYTHONPATH=rules, --logger lethe).
"""

import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

LAST = 12  # lines of a failed job's log
SILENT = {
    LogEvent.SHELLCMD,
    LogEvent.RESOURCES_INFO,
    LogEvent.WORKFLOW_STARTED,
    LogEvent.RULEGRAPH,
    LogEvent.GROUP_INFO,
}
PLAIN = ("all", "weights", "samples", "metrics", "total")  # targets: no work of their own
NOISE = (  # what Snakemake says for itself at the end of every run
    "Assuming unrestricted",
    "Building DAG",
    "Using shell",
    "Provided cores",
    "Rules claiming",
    "Provided resources",
    "Select jobs",
    "Execute ",
    "host:",
    "Complete log",
)


@dataclass
class Times:
    """How long jobs of each rule took, for a guess at what is left."""

    left: Counter = field(default_factory=Counter)
    spent: dict[str, list[float]] = field(default_factory=dict)
    started: float = 0.0

    def remaining(self, now: float) -> float | None:
        """Seconds until the end at the present number of jobs at once; None before the first has ended.

        A rule of which none has ended yet is taken to need what a job needs on the mean.
        """
        all_of = [seconds for own in self.spent.values() for seconds in own]
        if not all_of:
            return None
        mean = sum(all_of) / len(all_of)
        work = sum(
            count * (sum(self.spent[rule]) / len(self.spent[rule]) if rule in self.spent else mean)
            for rule, count in self.left.items()
        )
        at_once = max(1.0, sum(all_of) / max(now - self.started, 1e-9))
        return work / at_once


def clock(seconds: float) -> str:
    """75 -> "1 min 15 s"; above an hour in minutes."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


class LogHandler(LogHandlerBase):
    """Prints to stderr."""

    def __post_init__(self) -> None:
        self.jobs: dict[int, tuple[str, str]] = {}  # id -> rule, and what it makes
        self.begun: dict[int, float] = {}
        self.times, self.done, self.total = Times(), 0, 0

    def emit(self, record: logging.LogRecord) -> None:
        """One record of Snakemake's; what is neither a job's end nor a warning or an error is dropped."""
        event = getattr(record, "event", None)
        own = {
            LogEvent.RUN_INFO: self._run,
            LogEvent.JOB_INFO: self._job,
            LogEvent.JOB_STARTED: self._started,
            LogEvent.JOB_FINISHED: self._finished,
            LogEvent.JOB_ERROR: self._failed,
            LogEvent.PROGRESS: self._progress,
        }.get(event)
        if own:
            own(record)
        elif event not in SILENT and self._speaks(record, event):
            self._say(record.getMessage())

    def _speaks(self, record: logging.LogRecord, event: LogEvent | None) -> bool:
        """Of records that are no job's: warnings, errors, a dry run's, and what is not mere furniture."""
        text = record.getMessage().strip()
        if text.startswith("RuleException"):  # the failed job's own lines are shown
            return False
        warns = record.levelno >= logging.WARNING or self.common_settings.dryrun
        return bool(text) and (warns or (event is None and not text.startswith(NOISE)))

    def _run(self, record: logging.LogRecord) -> None:
        stats = getattr(record, "stats", None) or {}
        self.times.left = Counter({rule: count for rule, count in stats.items() if rule not in PLAIN})
        self.times.started, self.total = time.monotonic(), sum(self.times.left.values())
        jobs = ", ".join(f"{count} {rule}" for rule, count in self.times.left.items())
        self._say(f"{self.total} jobs: {jobs}" if self.total else "nothing to do")

    def _job(self, record: logging.LogRecord) -> None:
        names = dict(record.wildcards.items()) if record.wildcards else {}
        made = "/".join(names[key] for key in ("arm", "result") if key in names)
        self.jobs[record.jobid] = (record.rule_name, made)

    def _started(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        jobs = getattr(record, "jobs", [])
        self.begun |= dict.fromkeys(jobs if isinstance(jobs, list | tuple | set) else [jobs], now)

    def _finished(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        rule, made = self.jobs.get(record.job_id, ("job", str(record.job_id)))
        if rule in PLAIN:
            return
        seconds = now - self.begun.get(record.job_id, now)
        self.times.left[rule] -= 1
        self.times.spent.setdefault(rule, []).append(seconds)
        self.done += 1
        remaining = self.times.remaining(now)
        left = f"about {clock(remaining)} left" if self.done < self.total and remaining is not None else ""
        wide = len(str(self.total))
        self._say(f"{self.done:>{wide}}/{self.total}  {rule:<8} {made:<48} {clock(seconds):>12}  {left}".rstrip())

    def _failed(self, record: logging.LogRecord) -> None:
        rule, made = self.jobs.get(record.jobid, (record.rule_name, ""))
        self._say(f"FAILED  {rule} {made}")
        for name in record.log or []:
            self._say(f"  log: {name}")
            try:
                lines = Path(str(name)).read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError as error:
                lines = [f"(cannot be read: {error.strerror})"]
            for line in lines[-LAST:]:
                self._say(f"  | {line}")

    def _progress(self, record: logging.LogRecord) -> None:
        """Said with each finished job."""

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @property
    def writes_to_stream(self) -> bool:
        return True

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True

    @property
    def has_formatter(self) -> bool:
        return True

    @property
    def needs_rulegraph(self) -> bool:
        return False
