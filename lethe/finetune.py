"""Fine-tuning a pruned student under its dense teacher: the arm `distill`, and the lower level of `bilevel`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lethe import losses, models
from lethe.data import Encoded, generator, shares, to_device
from lethe.loop import Training
from lethe.losses import Schedule
from lethe.record import Budget

# A level's loss: (model, k) -> its value with a graph, and its terms for the log. Batch, noise and timesteps follow
# from k alone, so that two models can be compared on the same draw.
Loss = Callable[[nn.Module, int], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Batch:
    """Noised latents with their captions, float32, on the device."""

    latents: Tensor  # [B, C, h, w], z
    noise: Tensor  # [B, C, h, w]
    noisy: Tensor  # [B, C, h, w], z_t
    t: Tensor  # [B] long
    text: Tensor  # [B, L, D]
    null: Tensor  # [1, L, D], of the empty caption


@dataclass(frozen=True)
class Setting:
    """What a training of a pruned student works with, on the device."""

    teacher: nn.Module
    student: nn.Module
    data: Encoded
    concepts: list[Encoded]
    schedule: Schedule


def prepare(
    base: str,
    revision: str | None,
    pruned: Path,
    data: Path,
    options: Mapping,
    device: torch.device,
    concepts: Mapping[str, Path] | None = None,
) -> Setting:
    """Loads and checks everything. `options` is the section `distill`; folders are results of prune and encode.

    Raises UserError if a folder is damaged, or if latents or captions are not what the networks take.
    """
    student = models.load_unet(pruned)
    sources = {"data": Path(data)} | {f"concept {name}": path for name, path in (concepts or {}).items()}
    encoded = {name: Encoded.load(folder, device) for name, folder in sources.items()}
    for name, found in encoded.items():
        found.check(student, f"{sources[name]} ({name})", like=encoded["data"])
    loaded = models.load_base(base, revision, ["unet", "scheduler"])
    # A frozen network needs no float32 copy of its weights, which autocast would cast anew at every step.
    dtype = torch.bfloat16 if options["precision"] == "bfloat16" else torch.float32
    schedule = losses.schedule(loaded.scheduler, options["snr_gamma"], options["min_snr_v"], device)
    student = student.to(device).requires_grad_(True).train()
    return Setting(loaded.unet.to(device, dtype), student, encoded.pop("data"), list(encoded.values()), schedule)


def draw(
    sources: Sequence[Encoded], counts: Sequence[int], schedule: Schedule, draws: torch.Generator, dropout: float = 0.0
) -> Batch:
    """`counts[i]` pictures of `sources[i]`, noised at timesteps uniform over the schedule, each its own."""
    parts = [source.batch(draws, count, dropout) for source, count in zip(sources, counts, strict=True) if count]
    latents, text = (torch.cat(column) for column in zip(*parts, strict=True))
    noise = to_device(torch.randn(latents.shape, generator=draws), latents.device)
    t = to_device(torch.randint(len(schedule), (len(latents),), generator=draws), latents.device)
    return Batch(latents, noise, schedule.noised(latents, noise, t), t, text, sources[0].empty)


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
    """Collects the hidden state after each down, mid and up block. Hooks live only inside the context, if `wanted`."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in models.hook_blocks(unet)] if wanted else []
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

    The teacher is asked once, and only if a weight needs it; features are collected only if w_feat > 0.
    `options` is the section `distill`.
    """
    w_diff, w_out, w_feat = options["w_diff"], options["w_out"], options["w_feat"]

    def loss(student: nn.Module, k: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = draw([data], [options["batch"]], schedule, generator(seed, "lower", k), options["caption_dropout"])
        terms, wanted = {}, w_feat > 0
        with precision(options["precision"], data.device), features(student, wanted) as own:
            output = answer(student, batch.noisy, batch.t, batch.text, budget)
        if w_diff:
            target = schedule.target(batch.latents, batch.noise, batch.t)
            terms["diff"] = losses.diffusion(output, target, schedule.weight[batch.t])
        if w_out or w_feat:
            with features(teacher, wanted) as theirs:
                target = ask(teacher, batch.noisy, batch.t, batch.text, budget)
            if w_out:
                terms["out"] = losses.mean_square(output, target)
            if w_feat:
                terms["feat"] = losses.features(own, theirs)
        weights = {"diff": w_diff, "out": w_out, "feat": w_feat}
        total = sum(weights[name] * term for name, term in terms.items())
        return total, {"loss": total} | terms

    return loss


def upper(
    teacher: nn.Module,
    concepts: Sequence[Encoded],
    suppression: Callable,
    schedule: Schedule,
    options: Mapping,
    seed: int,
    budget: Budget,
) -> Loss:
    """L_CU: a suppression's loss on noised pictures of the concepts, which share a batch equally.

    `options` is the sections `distill` and `bilevel` together.
    """

    def loss(student: nn.Module, k: int) -> tuple[Tensor, dict[str, Tensor]]:
        counts = shares(options["upper_batch"], len(concepts), k)
        batch = draw(concepts, counts, schedule, generator(seed, "upper", k))
        with precision(options["precision"], batch.noisy.device):
            value = suppression(student, teacher, batch, options["eta"], budget)
        return value, {"upper": value}

    return loss


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW, betas (0.9, 0.999); one fused kernel where there is one: on a CPU it takes a seventh of the time."""
    parameters = list(parameters)
    how = {"fused": True} if parameters[0].device.type in ("cpu", "cuda") else {"foreach": True}
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, **how)


def warm(lr: float, warmup: int, k: int) -> float:
    """Learning rate of step k = 0, 1, ...: linear over `warmup` steps, then constant."""
    return lr * min(1.0, (k + 1) / max(1, warmup))


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, lr: float, clip_norm: float | None = None) -> None:
    """Backward, clipping, one optimiser step; gradients are freed."""
    loss.backward()
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
