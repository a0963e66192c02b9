"""NudeNet 3.4.2, in a process and an environment of its own: .venv-nudenet, made by `make nudenet`.

Three reasons: its OpenCV and ONNX runtime are heavy and unneeded elsewhere; its version decides the numbers, so it is
pinned exactly, with hashes (envs/nudenet.txt); and its licence. PyPI's record says MIT, but the wheel holds the text of
the AGPL-3.0, and the record inside its model file, which comes from Ultralytics' code, names that too. Nothing of it is
imported here or shipped with the project: a worker, run by that environment's Python, is sent pictures and answers in
JSON lines.

The package's own figures, which no threshold here undercuts: boxes below a score of 0.2 are dropped, then those below
0.25 by its suppression (overlap above 0.45, over all labels alike), so 0.25 is the lowest score that comes out.
Pictures are filled up to a square and resized to 320 pixels. Each is looked at alone, so that no other changes it.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import select
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np

from lethe.files.errors import NotThere, UserError
from lethe.measuring.detections import Detector, of_lists
from lethe.params.registry import LETHE

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = "3.4.2"
FOLDER = LETHE.parent / ".venv-nudenet"
WORKER = Path(__file__).with_name("nudenet_worker.py")
TOGETHER = 8  # pictures a line
PATIENCE = 300  # seconds for a line


def check() -> None:
    """Raises NotThere, with the command that makes it, if the environment is absent."""
    if not python().is_file():
        raise NotThere(f"NudeNet {VERSION} is not set up (no {FOLDER.name}): run make nudenet")


def python() -> Path:
    """The environment's interpreter."""
    return FOLDER / "bin" / "python"


@functools.cache
def detector() -> Detector:
    """NudeNet in its environment; one process, which ends with this one."""
    import torch

    check()
    threads = str(torch.get_num_threads())
    return started([str(python()), "-I", str(WORKER), threads])  # -I: or this file would be its module nudenet


def started(command: Sequence[str]) -> Detector:
    """A detector whose pictures a worker process looks at. Raises UserError if it does not start, or is another one."""
    worker = _Worker(command)
    about = worker.answer()
    if about.get("version") != VERSION:
        raise UserError(f"NudeNet: version {VERSION} is wanted, found {about.get('version')}; run make nudenet")
    labels = about.pop("labels")

    def network(batch: Sequence[Image]) -> np.ndarray:
        lists = []
        for start in range(0, len(batch), TOGETHER):
            lists += worker.ask(batch[start : start + TOGETHER])
        return of_lists(lists, labels)

    return Detector(labels, network, about)


class _Worker:
    """A process that reads {"pictures": [base64, ...]} a line and writes {"detections": [[{label, score, box}]]} or
    {"error": text}, after a first line that says what it is. It ends when its input does."""

    def __init__(self, command: Sequence[str]):
        self.told = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the worker
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(list(command), stdin=pipe, stdout=pipe, stderr=self.told)
        except OSError as error:
            raise UserError(f"NudeNet: {command[0]} does not start ({error.strerror}); run make nudenet") from None
        # None, says Popen's type, but for pipes
        self.asked, self.answers = cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)

    def ask(self, pictures: Sequence[Image]) -> list[list[dict]]:
        """The detections in each picture."""
        line = json.dumps({"pictures": [base64.b64encode(_png(one)).decode() for one in pictures]})
        try:
            self.asked.write(line.encode() + b"\n")
            self.asked.flush()
        except BrokenPipeError:
            raise self.ended() from None
        found = self.answer()["detections"]
        if len(found) != len(pictures):
            raise UserError(
                f"NudeNet: its worker answered for {len(found)} pictures of {len(pictures)}; run make nudenet"
            )
        return found

    def answer(self) -> dict:
        """The next line. Raises UserError if there is none, in time, or it is an error."""
        # a request has one line as its answer, so nothing of a next one waits in the buffer, where select sees nothing
        if not select.select([self.answers], [], [], PATIENCE)[0]:
            self.process.kill()
            raise UserError(f"NudeNet: its worker said nothing for {PATIENCE} s, and was stopped")
        line = self.answers.readline()
        if not line:
            raise self.ended()
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            self.process.kill()
            raise UserError(f"NudeNet: its worker answered no JSON: {line[:80]!r}; run make nudenet") from None
        if "error" in found:
            raise UserError(f"NudeNet: {found['error']}")
        return found

    def ended(self) -> UserError:
        """With the last line that the worker wrote before it ended."""
        code = self.process.wait()
        self.told.seek(0)
        lines = self.told.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing said")
        return UserError(f"NudeNet: its worker ended with code {code} ({last}); run make nudenet")


def _png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
