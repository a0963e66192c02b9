"""What is measured, the most important first, and how."""

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import nn

from lethe.bench.networks import Live, Networks, Twice
from lethe.bench.timing import Memory, summary, warmed
from lethe.drawing import sampling
from lethe.files.errors import UserError
from lethe.models import precision
from lethe.models.machine import Fitted, Machine, widen
from lethe.params import registry
from lethe.stage.record import Budget
from lethe.texts.rows import Prompt
from lethe.training import data, finetune, losses, upper_sources
from lethe.training.loop import Training

SECONDS = 3.0  # of timing a row, warming up apart
TILES = 3  # drawings that are timed, after one to warm up

OURS = Machine()
FREE = Machine(deterministic=False)
LAST = Machine(deterministic=False, channels_last=True)
ONCE = Machine(deterministic=False, cast="step")
FULL = Machine(deterministic=False, cast="step", multiple=64)
EAGER = Machine(deterministic=False, channels_last=True, cast="step", multiple=64)
COMPILED = Machine(deterministic=False, backend="inductor")
ALL = Machine(deterministic=False, channels_last=True, cast="step", multiple=64, backend="inductor")
STRICT = Machine(strict=True)
CUDNN = Machine(deterministic=False, attention="cudnn")


@dataclass(frozen=True)
class Row:
    """One measurement. `released`: the released trainer's way, or, when drawing, diffusers' own pipeline."""

    name: str
    kind: str  # distill, bilevel, sample or encode
    about: str
    machine: Machine = OURS
    budget: float = 0.8
    released: bool = False
    precision: str = "bfloat16"
    vae: str = "float32"
    batch: int | None = None  # None: the size's own

    @property
    def settings(self) -> dict[str, object]:
        """What makes it."""
        own = {key: getattr(self, key) for key in ("budget", "released", "precision", "vae")}
        return own | asdict(self.machine)


RELEASED = Machine(deterministic=False, tf32="convolutions")
LIVE = "VAE and text encoder at every step, anomaly mode, a teacher forward a text"
ROWS = [
    Row(
        "reference", "distill", f"float32, convolutions in TF32 as torch has it; {LIVE}", RELEASED, 0.8, True, "float32"
    ),
    Row("ours", "distill", "bfloat16 by autocast, cached latents, one teacher forward, deterministic"),
    Row("free", "distill", "ours, not deterministic", FREE),
    Row("full", "distill", "free, weights cast once a step, feed-forwards filled up to 64", FULL),
    Row("stock", "sample", "diffusers' pipeline, eager, all in bfloat16", FREE, 0.8, True, vae="bfloat16"),
    Row("ours", "sample", "bfloat16 U-Net, float32 VAE, deterministic"),
    Row("ours", "bilevel", "as distill/ours, both levels"),
    Row("bfloat16", "encode", "bfloat16 VAE, not deterministic", FREE, vae="bfloat16"),
    Row("ours", "encode", "float32 VAE without TF32, deterministic"),
    Row("all", "distill", "full, channels last, and compiled", ALL),
    Row(
        "all",
        "sample",
        "compiled, filled up to 64, channels last, bfloat16 VAE, not deterministic",
        ALL,
        vae="bfloat16",
    ),
    Row("all", "bilevel", "as distill/all, both levels", ALL),
    Row("once", "distill", "free, weights cast once a step", ONCE),
    Row("strict", "distill", "ours, deterministic in attention's backward too", STRICT),
    Row("channels_last", "distill", "free, channels last", LAST),
    Row("cudnn", "distill", "free, cuDNN's attention", CUDNN),
    Row("eager", "distill", "full, and channels last", EAGER),
    Row("eager", "sample", "filled up to 64, channels last, bfloat16 VAE, not deterministic", EAGER, vae="bfloat16"),
    Row("reference", "bilevel", f"as distill/reference, both levels; {LIVE}", RELEASED, 0.8, True, "float32"),
    Row("reference_no_tf32", "distill", "the reference without TF32", FREE, 0.8, True, "float32"),
    Row("float32", "distill", "ours, all in float32 without TF32", OURS, precision="float32"),
    Row("batch_64", "distill", "all, 64 pictures", ALL, batch=64),
    Row("batch_64", "bilevel", "ours, 64 pictures", FREE, batch=64),
    Row("compiled", "distill", "free, compiled", COMPILED),
    Row("ours_0.55", "distill", "ours, pruned to 0.55", OURS, 0.55),
    Row("all_0.55", "distill", "all, pruned to 0.55", ALL, 0.55),
]


@dataclass(frozen=True)
class Bench:
    """What rows are measured with: networks, options of the sections `distill` and `bilevel`, the card's ceiling."""

    nets: Networks
    options: Mapping
    tflops: float  # of a bfloat16 matrix product, measured
    pictures: dict[str, np.ndarray] = field(default_factory=dict)  # row -> what it drew first

    def measured(self, row: Row) -> dict[str, object]:
        """The row's numbers. `share`: what of the ceiling its arithmetic takes; `floor_ms`: its time at the ceiling."""
        _ = self.macs(str(row.budget)), self.nets.vae, self.nets.text_encoder  # made before memory is looked at
        memory = Memory(self.nets.device)
        made = {"distill": self._trained, "bilevel": self._trained, "sample": self._drawn, "encode": self._encoded}
        first, found, flop = made[row.kind](row)
        floor = flop / self.tflops / 1e9
        work = {"tflop": round(flop / 1e12, 4), "floor_ms": round(floor, 3), "share": round(floor / found["ms"], 4)}
        return found | work | {"first_s": round(first, 2), "peak_gib": memory.peak()}

    def _trained(self, row: Row) -> tuple[float, dict, float]:
        """Milliseconds of a step; of a bilevel one on average over the steps from one upper step to the next."""
        batch = row.batch or self.nets.size["batch"]
        options = dict(self.options) | {"batch": batch, "upper_batch": batch, "precision": row.precision}
        every = options["upper_every"]
        anomaly = torch.autograd.set_detect_anomaly(True) if row.released else nullcontext()
        with row.machine.computing(), anomaly:
            training = self.training(row, options)
            last: dict[str, torch.Tensor] = {}

            def step(number: int) -> None:
                turn, which = divmod(number, 2)
                last.update(training.step(turn * every + every - 2 + which if row.kind == "bilevel" else number))

            first, times = warmed(step, self.nets.device, SECONDS, 2 if row.kind == "bilevel" else 1)
        if not all(bool(value.isfinite()) for value in last.values()):
            raise UserError("a loss is not finite")
        lower = batch * (self.macs("dense") + 3 * self.macs(str(row.budget)))
        upper = batch * (2 * self.macs("dense") + 3 * self.macs(str(row.budget)))
        found = summary(times)
        if row.kind == "bilevel":
            plain, due = summary(times[0::2]), summary(times[1::2])
            mean = {key: ((every - 1) * plain[key] + due[key]) / every for key in ("ms",)}
            found = plain | {"ms": round(mean["ms"], 3), "plain": plain, "with_upper": due, "upper_every": every}
        flop = 2 * (lower + (upper / every if row.kind == "bilevel" else 0))
        return first, found | {"batch": batch}, flop

    def training(self, row: Row, options: Mapping) -> Training:
        """The project's own step over a copy of the student, as a stage would have it."""
        nets, machine, device = self.nets, row.machine, self.nets.device
        dtype = torch.bfloat16 if row.precision == "bfloat16" else torch.float32
        student: nn.Module = nets.student(row.budget).requires_grad_(True).train()
        teacher: nn.Module = nn.Module.to(copy.deepcopy(nets.unet), dtype)
        if row.released:
            teacher = Twice(teacher, options["batch"])
        elif machine not in (OURS, FREE, CUDNN, STRICT):
            student = Fitted(student, machine, tapped=options["w_feat"] > 0)
            teacher = Fitted(teacher, _uncast(machine), tapped=options["w_feat"] > 0)
        schedule = losses.schedule(nets.scheduler, options["snr_gamma"], options["min_snr_v"], device)
        pictures = nets.encoded()
        if row.released:
            pictures = Live(**vars(pictures), nets=nets)
        lower = finetune.lower(teacher, pictures, schedule, options, 0, Budget())
        if row.kind == "distill":
            return finetune.solve(student, lower, options)
        concepts = [pictures if row.released else nets.encoded()]
        setting = finetune.Setting(teacher, student, pictures, concepts, schedule, nets.scheduler.config)
        suppression = registry.get("suppressions", options["suppression"])
        source = upper_sources.find(setting, options, 0, Budget())
        upper = finetune.upper(setting, source, suppression, options, 0, Budget())
        return registry.get("solvers", options["solver"]).solve(student, lower, upper, options)

    def _drawn(self, row: Row) -> tuple[float, dict, float]:
        """Milliseconds of drawing a tile, decoding included; and how far its pictures are from ours as they stand."""
        count, steps = self.nets.size["pictures"], self.nets.size["steps"]
        started, times = time.monotonic(), []
        drawings = self._stock(row, count) if row.released else self._tiles(row, count)
        pictures = next(drawings)
        first = begun = time.monotonic()
        for _ in drawings:
            times.append(1000 * (time.monotonic() - begun))
            begun = time.monotonic()
        self.pictures[row.name] = pictures
        found = summary(times) | {"pictures": count, "steps": steps}
        if "ours" in self.pictures:
            gap = np.abs(pictures.astype(int) - self.pictures["ours"])
            found["distance"] = round(float(gap.mean()), 3)  # of 255
        macs = 2 * steps * self.macs(str(row.budget)) + self.nets.vae_macs("decode")
        return first - started, found, 2 * count * macs

    def _prompts(self, count: int) -> list[Prompt]:
        return [Prompt(case_number=i, prompt=f"a painting of {'abcdefgh'[i % 8]}", seed=i) for i in range(count)]

    def _tiles(self, row: Row, count: int) -> Iterator[np.ndarray]:
        """`sampling.draw`, as stage sample calls it or with a network fitted to the machine."""
        base, unet, size = self.nets.base(), self.nets.student(row.budget), self.nets.size
        base.vae = _half(base.vae, row)
        kept = row.machine == OURS
        if not kept:
            unet = precision.Half(unet, torch.bfloat16)
            widen(unet.unet, row.machine.multiple)
            unet.unet = Fitted(unet.unet, _uncast(row.machine))
        how = sampling.Settings("ddim", size["steps"], size["guidance"], count, row.precision if kept else "float32")
        rows = [self._prompts(count)] * (1 + TILES)
        yield from sampling.draw(base, unet, rows, how, machine=None if kept else row.machine)

    def _stock(self, row: Row, count: int) -> Iterator[np.ndarray]:
        base, size = self.nets.base(), self.nets.size
        parts = {"vae": base.vae, "text_encoder": base.text_encoder, "unet": self.nets.student(row.budget)}
        parts = {name: nn.Module.to(copy.deepcopy(net), torch.bfloat16) for name, net in parts.items()}
        pipeline = StableDiffusionPipeline(
            **parts,
            tokenizer=base.tokenizer,
            scheduler=base.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        rows = self._prompts(count)
        noise = sampling.noise([row.seed for row in rows], base.latent_shape).to(self.nets.device, torch.bfloat16)
        for _ in range(1 + TILES):
            with row.machine.computing():
                drawn = pipeline(
                    [row.prompt for row in rows],
                    num_inference_steps=size["steps"],
                    guidance_scale=size["guidance"],
                    latents=noise,
                    output_type="np",
                ).images
            yield (255 * drawn).round().astype(np.uint8)

    def _encoded(self, row: Row) -> tuple[float, dict, float]:
        """Milliseconds of encoding a tile of pictures, and pictures a second."""
        side, count, device = self.nets.size["pixels"], data.TILE, self.nets.device
        vae = _half(self.nets.vae, row)
        pixels = torch.rand((count, 3, side, side), generator=data.generator(0, "encode", 0)) * 2 - 1
        pixels = pixels.to(next(vae.parameters()).dtype)
        with row.machine.computing():
            first, times = warmed(lambda _: data.posterior(vae, pixels, device), device, SECONDS)
        found = summary(times)
        rate = {"pictures": count, "per_second": round(1000 * count / found["ms"], 1)}
        return first, found | rate, 2 * count * self.nets.vae_macs("encode")

    def macs(self, name: str) -> int:
        """MACs of one picture in one forward."""
        if name not in self.nets.macs:
            self.nets.student(float(name) if name != "dense" else 0.8)
        return self.nets.macs[name]


def _uncast(machine: Machine) -> Machine:
    """The same for a network whose weights are in half precision already."""
    return Machine(**(asdict(machine) | {"cast": "use"}))


def _half(vae: AutoencoderKL, row: Row) -> AutoencoderKL:
    """A copy of a VAE in the row's number format and layout."""
    layout = torch.channels_last if row.machine.channels_last else torch.contiguous_format
    return nn.Module.to(nn.Module.to(copy.deepcopy(vae), getattr(torch, row.vae)), memory_format=layout)


def titles() -> list[str]:
    """Names of all rows, such as distill/ours."""
    return [f"{row.kind}/{row.name}" for row in ROWS]


def chosen(names: list[str] | None) -> list[Row]:
    """Rows of these names, or all. Raises UserError for a name that no row has."""
    unknown = [name for name in names or [] if name not in titles()]
    if unknown:
        raise UserError(f"--rows: no row {', '.join(unknown)}; there are {', '.join(titles())}")
    return [row for row, title in zip(ROWS, titles(), strict=True) if not names or title in names]
