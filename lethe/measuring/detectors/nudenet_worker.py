"""NudeNet's end of the line: run by the Python of .venv-nudenet, which has NudeNet and nothing of this project.

Writes one JSON line that says what it is, then answers each line {"pictures": [base64 of a picture file, ...]} with
{"detections": [[{"label", "score", "box": [x, y, w, h]}, ...], ...]}, or {"error": text}. Ends when its input ends.
Its argument is the number of threads: left alone, the runtime takes every core of the machine, allowed or not.
"""

import ast
import base64
import hashlib
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nudenet import NudeDetector

FLOOR = {"score": 0.2, "suppression_score": 0.25, "suppression_overlap": 0.45}  # constants of its 3.4.2
RESOLUTION = 320


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not stand among the answers

    import nudenet
    import onnxruntime

    model = Path(nudenet.__file__).with_name("320n.onnx")
    network = nudenet.NudeDetector(model_path=str(model), inference_resolution=RESOLUTION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(sys.argv[1])
    network.onnx_session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = network.onnx_session.get_modelmeta().custom_metadata_map["names"]
    about = {
        "detector": "nudenet",
        "version": metadata.version("nudenet"),
        "model": model.name,
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "resolution": RESOLUTION,
        "floor": FLOOR,
        "packages": {name: metadata.version(name) for name in ("onnxruntime", "opencv-python-headless", "numpy")},
        "labels": labels(names),
    }
    print(json.dumps(about), file=answers, flush=True)
    answer: dict[str, object]
    for line in sys.stdin:
        try:
            found = [look(network, base64.b64decode(one)) for one in json.loads(line)["pictures"]]
            answer = {"detections": found}
        except Exception as error:  # the other side has to be told, whatever it was
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


def labels(text: str) -> list[str]:
    """Labels in the order of the model's outputs, of the dict that its file holds as text."""
    found = ast.literal_eval(text)
    return [found[number] for number in sorted(found)]


def look(network: "NudeDetector", content: bytes) -> list[dict]:
    """Detections in one picture file."""
    return [
        {"label": one["class"], "score": float(one["score"]), "box": [int(number) for number in one["box"]]}
        for one in network.detect(content)
    ]


if __name__ == "__main__":
    main()
