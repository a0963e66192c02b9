"""Prunes a base model's U-Net to a MACs budget: attention heads, feed-forward neurons, inner residual channels.

In: a StableDiffusionPipeline folder or hub id. Out: unet/ (config.json, diffusion_pytorch_model.safetensors,
pruning.json: what was kept) and meta.json with macs and params, dense and kept.

    python -m stages.prune --base models/atelier/pipeline --budget 0.8 --params params.yaml --out results/own/pruned
"""

from pathlib import Path

from lethe import cli, io, registry
from lethe.errors import UserError
from lethe.models import check_base, check_resolution
from lethe.recipe import of_model, recipe
from lethe.record import Recorder

VERSION = 1


def main() -> None:
    """Parses, checks, prunes; raises UserError before anything is loaded if the inputs are wrong."""
    parser = cli.parser("prune", __doc__)
    cli.add_base(parser)
    cli.add_resolution(parser)
    parser.add_argument("--budget", type=float, required=True, help="fraction of the dense model's MACs to keep")
    cli.add_section(parser, "prune")
    args = parser.parse_args()
    args.resolution = cli.resolution(args)
    values = cli.section_values(args, "prune")
    if not 0 < args.budget < 1:
        raise UserError(
            f"--budget: {args.budget} is not between 0 and 1 (the fraction of the dense model's MACs to keep)"
        )
    registry.check("criteria", values["criterion"])
    check_base(args.base, args.revision)
    check_resolution(args.base, args.resolution)

    options = {"budget": args.budget, **values}
    resolved = options | {"resolution": args.resolution}
    own = recipe("prune", VERSION, resolved, {"base": of_model(args.base, args.revision)})
    if io.is_finished(args.out, own):
        print(f"{args.out}: finished before")
        return
    if args.dry_run:
        print(f"would prune {args.base} to {args.budget} of its MACs by {values['criterion']} into {args.out}")
        return

    from lethe.models import latent_shape, load_base, save_unet, text_length
    from lethe.pruning import prune

    device = cli.device(args)
    recorder = Recorder("prune", VERSION, own, resolved, {"base": Path(args.base)})
    base = load_base(args.base, args.revision, ["unet", "vae"])
    unet = base.unet.to(device)
    pruning = prune(
        unet,
        **options,
        latent_shape=latent_shape(unet, base.vae, args.resolution),
        text_length=text_length(args.base, args.revision),
    )
    with io.result_folder(args.out) as part:
        save_unet(unet, pruning, part)
        recorder.write(part, device=str(device), macs=pruning["macs"], params=pruning["params"])
    macs, params = pruning["macs"], pruning["params"]
    print(
        f"{args.out}: kept {macs['kept'] / macs['dense']:.4f} of {macs['dense'] / 1e6:.1f} M MACs, "
        f"{params['kept'] / params['dense']:.4f} of {params['dense'] / 1e6:.2f} M parameters"
    )


if __name__ == "__main__":
    cli.run(main)
