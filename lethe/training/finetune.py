"""Fine-tuning a pruned student under its dense teacher: the arm `distill`, and the lower level of `bilevel`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from lethe.files.errors import UserError, needed
from lethe.models import pipelines, unets
from lethe.models.machine import Fitted
from lethe.stage.record import Budget
from lethe.training import losses
from lethe.training.data import Encoded, generator, to_device
from lethe.training.loop import Training
from lethe.training.losses import Schedule

# A level's loss: (model, k) -> its value with a graph, and its terms for the log. Batch, noise and timesteps follow
# from k alone, so that two models can be compared on the same draw.
Loss = Callable[[nn.Module, int], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Batch:
    """Noised latents with their captions, float32, on the device.

    States of a sampler have no latents and no noise of their own. Captions that were encoded without an anchor have no
    anchor, mask and end.
    """

    latents: Tensor | None  # [B, C, h, w], z
    noise: Tensor | None  # [B, C, h, w]
    noisy: Tensor  # [B, C, h, w], z_t
    t: Tensor  # [B] long
    text: Tensor  # [B, L, D]
    null: Tensor  # [1, L, D], of the empty caption
    anchor: Tensor | None = None  # [B, L, D], of each caption with the concept taken out
    mask: Tensor | None = None  # [B, L], 1 at the concept's tokens of the caption, 0 elsewhere
    end: Tensor | None = None  # [B] long, place of the caption's end token
    answers: tuple[Tensor, Tensor] | None = None  # the teacher's to the empty text and to `text`, if known


@dataclass(frozen=True)
class PictureBatch(Batch):
    """A batch that was made of pictures: latents and noise are there."""

    latents: Tensor
    noise: Tensor


# Where the upper level's batches come from: its step number k -> its batch, a pure function.
Source = Callable[[int], Batch]


@dataclass(frozen=True)
class Setting:
    """What a training of a pruned student works with, on the device."""

    teacher: nn.Module
    student: nn.Module
    data: Encoded
    concepts: list[Encoded]
    schedule: Schedule
    scheduler: Mapping  # configuration of the base model's scheduler


def prepare(
    base: str,
    revision: str | None,
    pruned: Path,
    data: Path,
    options: Mapping,
    device: torch.device,
    concepts: Mapping[str, Path] | None = None,
    teacher: Path | None = None,
) -> Setting:
    """Loads and checks everything. `options` is the section `distill`; folders are results of prune and encode.

    The teacher is the base model's U-Net, or that of a weights folder such as a result of erase.

    Raises UserError if a folder is damaged, or if latents or captions are not what the networks take.
    """
    student = unets.load_unet(pruned)
    sources = {"data": Path(data)} | {f"concept {name}": path for name, path in (concepts or {}).items()}
    encoded = {name: Encoded.load(folder, device) for name, folder in sources.items()}
    for name, found in encoded.items():
        found.check(student, f"{sources[name]} ({name})", like=encoded["data"])
    loaded = pipelines.load_base(base, revision, ["scheduler", *([] if teacher else ["unet"])])
    frozen = unets.load_unet(teacher).requires_grad_(False) if teacher else loaded.unet
    # A frozen network needs no float32 copy of its weights, which autocast would cast anew at every step.
    dtype = torch.bfloat16 if options["precision"] == "bfloat16" else torch.float32
    schedule = losses.schedule(loaded.scheduler, options["snr_gamma"], options["min_snr_v"], device)
    student = student.to(device).requires_grad_(True).train()
    own = encoded.pop("data")
    return Setting(frozen.to(device, dtype), student, own, list(encoded.values()), schedule, loaded.scheduler.config)


def draw(
    sources: Sequence[Encoded], counts: Sequence[int], schedule: Schedule, draws: torch.Generator, dropout: float = 0.0
) -> PictureBatch:
    """`counts[i]` pictures of `sources[i]`, noised at timesteps uniform over the schedule, each its own."""
    parts = [source.batch(draws, count, dropout) for source, count in zip(sources, counts, strict=True) if count]
    latents, text = torch.cat([part.latents for part in parts]), torch.cat([part.text for part in parts])
    anchor, mask, end = (joined(column) for column in zip(*(part[2:] for part in parts), strict=True))
    noise = to_device(torch.randn(latents.shape, generator=draws), latents.device)
    t = to_device(torch.randint(len(schedule), (len(latents),), generator=draws), latents.device)
    noisy = schedule.noised(latents, noise, t)
    return PictureBatch(latents, noise, noisy, t, text, sources[0].empty, anchor, mask, end)


def joined(column: Sequence[Tensor | None]) -> Tensor | None:
    """A column of several sources, one after the other; None where a source has none."""
    parts = [part for part in column if part is not None]
    return torch.cat(parts) if len(parts) == len(column) else None


def answer(student: nn.Module, noisy: Tensor, t: Tensor, text: Tensor, budget: Budget) -> Tensor:
    """The student's prediction, with a graph if gradients are on; a backward pass is then counted too."""
    budget.student_forward += len(noisy)
    budget.student_backward += len(noisy) * torch.is_grad_enabled()
    return student(noisy, t, text, return_dict=False)[0]


@torch.inference_mode()
def ask(teacher: nn.Module, noisy: Tensor, t: Tensor, text: Tensor, budget: Budget) -> Tensor:
    """A frozen network's prediction in float32, computed in that network's own dtype."""
    budget.teacher_forward += len(noisy)
    dtype = next(teacher.parameters()).dtype
    with torch.autocast(noisy.device.type, enabled=False):
        return teacher(noisy.to(dtype), t, text.to(dtype), return_dict=False)[0].float()


@contextmanager
def features(unet: nn.Module, wanted: bool) -> Iterator[dict[str, Tensor]]:
    """Collects the hidden state after each down, mid and up block. Hooks live only inside the context, if `wanted`;
    a network that was fitted to its machine has hooks of its own, if it is `tapped`."""
    found: dict[str, Tensor] = {}
    if isinstance(unet, Fitted):
        with unet.tapping(found):
            yield found
        return

    def keep(name: str) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in unets.hook_blocks(unet)] if wanted else []
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def precision(name: str, device: torch.device) -> torch.autocast:
    """Autocast for "bfloat16", nothing for "float32". Weights, gradients and losses are float32 in both."""
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16")


def lower(teacher: nn.Module, data: Encoded, schedule: Schedule, options: Mapping, seed: int, budget: Budget) -> Loss:
    """L_ft = w_diff L_diff + w_out L_outKD + w_feat L_featKD (arXiv 2412.15341), as a closure over step numbers.

    The teacher is asked once a step number, however many students answer to it, and only if a weight needs it; features
    are collected only if w_feat > 0. `options` is the section `distill`.
    """
    w_diff, w_out, w_feat = options["w_diff"], options["w_out"], options["w_feat"]
    wanted = w_feat > 0

    @lru_cache(maxsize=1)
    def asked(k: int) -> tuple[PictureBatch, Tensor | None, dict[str, Tensor]]:
        """The batch of a step, and the teacher's output and features on it."""
        batch = draw([data], [options["batch"]], schedule, generator(seed, "lower", k), options["caption_dropout"])
        if not (w_out or w_feat):
            return batch, None, {}
        with features(teacher, wanted) as theirs:
            return batch, ask(teacher, batch.noisy, batch.t, batch.text, budget), theirs

    def loss(student: nn.Module, k: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, theirs, taught = asked(k)
        terms = {}
        with precision(options["precision"], data.device), features(student, wanted) as own:
            output = answer(student, batch.noisy, batch.t, batch.text, budget)
        if w_diff:
            target = schedule.target(batch.latents, batch.noise, batch.t)
            terms["diff"] = losses.diffusion(output, target, schedule.weight[batch.t])
        if w_out:
            terms["out"] = losses.mean_square(output, needed(theirs, "answer of the teacher"))
        if w_feat:
            terms["feat"] = losses.features(own, taught, unets.block_pairs(student, teacher))
        weights = {"diff": w_diff, "out": w_out, "feat": w_feat}
        total = sum(weights[name] * term for name, term in terms.items())
        return total, {"loss": total} | terms

    return loss


def upper(
    setting: Setting, source: Source, suppression: ModuleType, options: Mapping, seed: int, budget: Budget
) -> Loss:
    """L_CU: a suppression's loss on the source's batches. With `retain_weight` w > 0 it is

        L_CU + w mean (f(z_t, t, c) - f_T(z_t, t, c))^2

    whose second term is on `upper_batch` noised fine-tuning pictures, drawn apart from all else. `suppression` is a
    module of lethe/training/suppressions; `options` is the sections `distill` and `bilevel` together.
    Raises UserError if concepts lack what the suppression needs.
    """
    check_needs(suppression, options, setting.concepts)
    weight = options["retain_weight"]

    def loss(student: nn.Module, k: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = source(k)
        with precision(options["precision"], batch.noisy.device):
            value = suppression.loss(student, setting.teacher, batch, options, budget)
        if not weight:
            return value, {"upper": value}
        kept = draw([setting.data], [options["upper_batch"]], setting.schedule, generator(seed, "retain", k))
        with precision(options["precision"], kept.noisy.device):
            output = answer(student, kept.noisy, kept.t, kept.text, budget)
        retain = losses.mean_square(output, ask(setting.teacher, kept.noisy, kept.t, kept.text, budget))
        total = value + weight * retain
        return total, {"upper": total, "suppress": value, "retain": retain}

    return loss


def check_needs(suppression: ModuleType, options: Mapping, concepts: Sequence[Encoded]) -> None:
    """Raises UserError if a suppression needs captions with the concept taken out, or the place of its tokens, and a
    concept's pictures were encoded without an anchor, or with one that takes nothing out."""
    needs = suppression.needs(options) if hasattr(suppression, "needs") else getattr(suppression, "NEEDS", [])
    if not needs:
        return
    name = suppression.__name__.rpartition(".")[2]
    for concept in concepts:
        where = concept.folder or "a concept's pictures"
        if concept.mask is None:
            raise UserError(
                f"{where}: has no captions without the concept, which suppression {name} needs; encode the pictures "
                "again with --prompt and --anchor"
            )
        if not concept.mask.any():
            raise UserError(
                f"{where}: every caption is the same without the concept, so suppression {name} has nothing to do; "
                "give another anchor, or captions that name the concept, and encode the pictures again"
            )


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW, betas (0.9, 0.999); one fused kernel where there is one: on a CPU it takes a seventh of the time."""
    parameters = list(parameters)
    fused, foreach = (True, None) if parameters[0].device.type in ("cpu", "cuda") else (None, True)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused, foreach=foreach)


def warm(lr: float, warmup: int, k: int) -> float:
    """Learning rate of step k = 0, 1, ...: linear over `warmup` steps, then constant."""
    return lr * min(1.0, (k + 1) / max(1, warmup))


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, lr: float, clip_norm: float | None = None) -> None:
    """Backward, clipping, one optimiser step; gradients are freed."""
    loss.backward()
    advance(optimizer, lr, clip_norm)


def advance(optimizer: torch.optim.Optimizer, lr: float, clip_norm: float | None = None) -> None:
    """Clipping and one optimiser step with the gradients that are there; they are freed."""
    if clip_norm is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def detached(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Terms for the log, without their graphs."""
    return {name: value.detach() for name, value in terms.items()}


def solve(student: nn.Module, lower: Loss, options: Mapping) -> Training:
    """The lower level alone: the arm `distill`."""
    optimizer = adamw(student.parameters(), options["lr"], options["weight_decay"])

    def step(k: int) -> dict[str, Tensor]:
        loss, terms = lower(student, k)
        descend(loss, optimizer, warm(options["lr"], options["warmup"], k), options["clip_norm"])
        return detached(terms)

    return Training(step, {"student": student}, {"lower": optimizer})
