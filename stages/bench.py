"""Measures speed and memory of training, drawing and encoding on this machine, each saving alone and together.

Networks are of Stable Diffusion 2.1's form with random weights (on a CPU: small ones), pruned by magnitude.
Out: <device>.json and <device>.md in the folder --out. They are written anew after every row, so that a run which is
stopped leaves what it measured. A row that fails is told with its reason, and one for which no time is left too.

    python -m stages.bench --seconds 300
    python -m stages.bench --rows distill/reference distill/all
"""

import argparse
import gc
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.files import io
from lethe.files.errors import UserError
from lethe.params import options
from lethe.stage import cli, record

if TYPE_CHECKING:
    from lethe.bench.rows import Bench, Row

PARAMS = Path(__file__).parents[1] / "params.yaml"
RATE = 1.0e-6  # the paper's; random networks are to stay finite


def main() -> None:
    """Parses, builds the networks, measures row by row."""
    args = parsed()
    ends = time.monotonic() + args.seconds if args.seconds else float("inf")
    device = cli.device(args)
    import torch

    from lethe.bench import networks, rows, timing
    from lethe.bench.table import table

    wanted = rows.chosen(args.rows)
    kinds = networks.sizes()
    size = args.size or ("sd21" if device.type == "cuda" else "small")
    if size not in kinds:
        raise UserError(f"--size: {size!r} is not one of {', '.join(kinds)}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else record.cpu_name()
    found: dict[str, Any] = {
        "device": name,
        "size": size,
        "code": record.code_revision(),
        "packages": record.versions(),
        "cpu": record.cpu_name(),
        "threads": torch.get_num_threads(),
        "ceilings": timing.ceilings(device, kinds[size]["matmul"]),
        "rows": [head(row) | {"not_measured": "not reached"} for row in wanted],
    }
    values = options.load(PARAMS)
    values = values["distill"] | values["bilevel"] | {"lr": RATE, "upper_lr": 5 * RATE}
    nets = networks.Networks(kinds[size], device)
    bench = rows.Bench(nets, values, found["ceilings"]["bfloat16"]["tflops"])
    file = args.out / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    for index, row in enumerate(wanted):
        needed = kinds[size]["needs"]["compiled" if row.machine.backend else "eager"]
        late = time.monotonic() + needed > ends
        found["rows"][index] = head(row) | ({"not_measured": "out of time"} if late else tried(bench, row))
        print(told(found["rows"][index]), flush=True)
        io.write_json(file.with_suffix(".json"), found)
        io.write_text(file.with_suffix(".md"), table(found))
    print(f"{file}.json: {sum('ms' in row for row in found['rows'])} of {len(wanted)} rows measured")


def parsed() -> argparse.Namespace:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=cli.prog("stages.bench"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--out", type=Path, default=Path("reports/bench"), help="folder (default: reports/bench)")
    made.add_argument("--size", help="networks of lethe/bench/sizes.yaml (default: sd21 on a GPU, else small)")
    made.add_argument("--rows", nargs="+", metavar="KIND/NAME", help="these alone (default: all)")
    made.add_argument("--seconds", type=float, default=0.0, help="begin no row that would end later; 0: all (default)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    made.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all (default: 0)")
    return made.parse_args()


def head(row: "Row") -> dict[str, object]:
    """What a row is."""
    return {"kind": row.kind, "name": row.name, "about": row.about, "settings": row.settings}


def tried(bench: "Bench", row: "Row") -> dict[str, object]:
    """The row's numbers, or the reason why it has none: whatever it is, other rows are to be measured."""
    import torch

    try:
        return bench.measured(row)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return {"failed": f"{type(error).__name__}: {lines[0]}"[:300]}
    finally:
        gc.collect()
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def told(row: dict) -> str:
    """One line on a row."""
    title = f"{row['kind']}/{row['name']}"
    if "ms" not in row:
        return f"{title}: {row.get('failed') or row['not_measured']}"
    return (
        f"{title}: {row['ms']:.1f} ms, {100 * row['share']:.1f} % of the ceiling, peak {row['peak_gib']} GiB, "
        f"first turn {row['first_s']:.1f} s"
    )


if __name__ == "__main__":
    cli.run(main)
