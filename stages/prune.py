"""Prunes a base model's U-Net to a MACs budget: units of its layers, whole blocks, or both, as the pruner decides.

In: a StableDiffusionPipeline folder or hub id, or a dense U-Net made from it (--model), such as one that forgot.
Some pruners also look at encoded pictures (--data); they say so.
Out: unet/ (config.json, diffusion_pytorch_model.safetensors, pruning.json: what was kept) and meta.json with macs,
macs_released (as the paper's code counts them), params and latency_ms, dense and kept. --list shows what any pruned
weights folder kept, layer by layer.

    python -m stages.prune --base models/atelier/pipeline --budget 0.8 --out results/own/pruned
    python -m stages.prune --list results/own/pruned
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from lethe.erasing import guidance
from lethe.files import io
from lethe.files.errors import UserError
from lethe.models import pipelines, unets
from lethe.params import experts, registry
from lethe.params.recipe import of_folder, of_model, of_result, recipe
from lethe.pruning import kept
from lethe.stage import cli
from lethe.stage.parents import check as check_parents
from lethe.stage.record import Recorder
from lethe.stage.reuse import settled

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel

    from lethe.pruning.calibration import Calibration

VERSION = 2


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line (or these words), checks, prunes; raises UserError before anything is loaded
    if the inputs are wrong."""
    shown = cli.early("list", words=words)
    if shown is not None:
        print("\n".join(kept.listing(Path(shown))))
        return
    parser = cli.parser("prune", __doc__)
    cli.add_base(parser)
    cli.add_resolution(parser)
    parser.add_argument("--list", metavar="FOLDER", help="show what a pruned weights folder kept, and do nothing else")
    parser.add_argument("--budget", type=float, required=True, help="fraction of the dense model's MACs to keep")
    parser.add_argument("--model", type=Path, help="dense weights folder to prune instead of the base model's U-Net")
    parser.add_argument("--data", type=Path, help="result of stage encode: pictures, for pruners that look at some")
    plugins = cli.early_plugins("prune", words)
    cli.add_section(parser, "prune", *plugins)
    args = parser.parse_args(words)
    args.resolution = cli.resolution(args)
    values = cli.section_values(args, "prune", *plugins)
    if not 0 < args.budget < 1:
        raise UserError(
            f"--budget: {args.budget} is not between 0 and 1 (the fraction of the dense model's MACs to keep)"
        )
    values = experts.at_budget(values, args.budget)
    pipelines.check_base(args.base, args.revision)
    pipelines.check_resolution(args.base, args.resolution)
    folders = read_needs(values, args.data) | ({"model": args.model} if args.model else {})
    if args.model and unets.read_pruning(args.model):
        raise UserError(f"--model: {args.model} is pruned already; give dense weights, or leave --model out")
    if args.model:
        guidance.check_unet_alone(args.model, "--model")

    options = {"budget": args.budget, **values, "resolution": args.resolution}
    parents = {"base": of_model(args.base, args.revision)}
    parents |= {role: of_folder(path) if role == "checkpoint" else of_result(path) for role, path in folders.items()}
    own = recipe("prune", VERSION, options, parents)
    if settled(args.out, own, args.dry_run):
        return
    check_parents(folders, args.base)
    if args.dry_run:
        source = args.model or args.base
        print(f"would prune {source} to {args.budget} of its MACs with {values['pruner']} into {args.out}")
        return

    recorder = Recorder("prune", VERSION, own, options, {"base": Path(args.base), **folders})
    run(args, values, folders, recorder)


def read_needs(values: dict, data: Path | None) -> dict[str, Path]:
    """Folders that the pruner reads, by role; others are left out. Raises UserError for missing ones."""
    pruner, found = values["pruner"], {}
    needs = registry.needs("pruners", pruner)
    if "data" in needs:
        if data is None:
            raise UserError(f"--data: {pruner} looks at pictures: give a result of stage encode")
        found["data"] = data
    if "checkpoint" in needs:
        registry.get("pruners", pruner).check(values)
        found["checkpoint"] = Path(values["checkpoint"])
    return found


def run(args: argparse.Namespace, values: dict, folders: dict[str, Path], recorder: Recorder) -> None:
    """The work itself, once all has been checked that can be without torch."""
    import copy

    from lethe.drawing import latency
    from lethe.pruning import narrowing

    device = cli.device(args)
    base = pipelines.load_base(args.base, args.revision, ["unet", "vae", "scheduler"])
    dense = (unets.load_unet(args.model).requires_grad_(False) if args.model else base.unet).to(device)
    size = (pipelines.latent_shape(dense, base.vae, args.resolution), pipelines.text_length(args.base, args.revision))
    shared = {key: values[key] for key in ("keep_least", "tolerance")}
    own = {key: value for key, value in values.items() if key not in ("pruner", *shared)}
    calibration = calibrate(folders["data"], base, dense, size[0], device) if "data" in folders else None
    goal = narrowing.Goal(args.budget, *size, **shared, options=own, calibration=calibration)
    unet, found = narrowing.prune(copy.deepcopy(dense), values["pruner"], goal)
    times = latency.compare({"dense": dense, "kept": unet}, *size, device)
    with io.result_folder(args.out) as part:
        unets.save_unet(unet, found, part)
        facts = {key: found[key] for key in ("macs", "macs_released", "params")} | {"latency_ms": times}
        budget = calibration.budget if calibration else None
        recorder.write(part, budget=budget, device=str(device), **facts)
    print(f"{args.out}: {'; '.join([*kept.summary(found), *kept.totals(facts)])}")


def calibrate(
    folder: Path,
    base: SimpleNamespace,
    unet: "UNet2DConditionModel",
    latent_shape: tuple[int, int, int],
    device: "torch.device",
) -> "Calibration":
    """Encoded pictures and the noise schedule. Raises UserError if the U-Net does not take them at this size."""
    from lethe.pruning.calibration import Calibration
    from lethe.training import losses
    from lethe.training.data import Encoded

    data = Encoded.load(folder, device)
    data.check(unet, str(folder), like=data)
    if tuple(data.mean.shape[1:]) != latent_shape:
        raise UserError(
            f"{folder}: latents {list(data.mean.shape[1:])}, pruned is at {list(latent_shape)}; encode with the same "
            "--resolution"
        )
    return Calibration(data, losses.schedule(base.scheduler, None, "legacy", device))


if __name__ == "__main__":
    cli.run(main)
