"""Words in a text that are searched for, or learnt: which tokens may stand in text, where, and relaxed choices of them.

What an attack finds has to be text again, and sampling encodes that text anew. A byte-pair token is not always read
again as it was written: "ox" is the end of a word or the beginning of another, and two of them become a third. So a
search may take `vocabulary` alone: tokens that are whole words, each read back as itself, with spaces between.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import AddedToken

from lethe.files.errors import UserError

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


def length(base: SimpleNamespace) -> int:
    """Tokens that a base model's text encoder reads, start and end included."""
    return min(base.tokenizer.model_max_length, base.text_encoder.config.max_position_embeddings)


def vocabulary(tokenizer: "CLIPTokenizer") -> dict[int, str]:
    """Tokens that stand for themselves in a text, by id in rising order: id -> its word.

    Left out are special tokens, beginnings and middles of words, and bytes that are no character of their own.
    """
    special = set(tokenizer.all_special_ids)
    ids = sorted(set(tokenizer.get_vocab().values()) - special)
    words = [text.strip() for text in tokenizer.batch_decode([[one] for one in ids])]
    again = tokenizer(words, add_special_tokens=False).input_ids
    return {one: word for one, word, read in zip(ids, words, again, strict=True) if read == [one]}


@dataclass(frozen=True)
class Sentences:
    """Token ids of texts of which some tokens are free, padded to the text encoder's length."""

    ids: Tensor  # [N, L] long; at free places any token
    places: Tensor  # [N, k] long, the free tokens
    ends: Tensor  # [N] long, the end token

    def rows(self, chosen: Sequence[int] | Tensor) -> "Sentences":
        """Some of them, in that order."""
        return Sentences(self.ids[chosen], self.places[chosen], self.ends[chosen])

    def filled(self, tokens: Tensor) -> "Sentences":
        """With these tokens [N, k] at the free places."""
        return Sentences(self.ids.scatter(1, self.places, tokens), self.places, self.ends)


def sentences(
    tokenizer: "CLIPTokenizer",
    prompts: Sequence[str],
    count: int,
    position: str,
    length: int,
    device: torch.device,
    where: str,
) -> Sentences:
    """`count` free tokens before ("prefix") or after ("suffix") each prompt; `length` is the text encoder's.

    A prompt that is too long loses its end, as it would in drawing. Raises UserError if the tokens leave no room for a
    prompt, or if a suffix would be what is cut.
    """
    room = length - 2 - count  # start and end
    if count < 1 or room < 1:
        raise UserError(
            f"{where}: {count} tokens beside the prompt; the text encoder reads {length}, start and end included: "
            f"give 1 to {length - 3}"
        )
    found = []
    for prompt in prompts:
        own = tokenizer(prompt, add_special_tokens=False, truncation=True, max_length=length).input_ids
        if position == "suffix" and len(own) > room:
            raise UserError(
                f"{where}: no room for {count} tokens after {prompt!r} in the {length} that the text encoder reads; "
                "give fewer, or set position to prefix"
            )
        found.append(own[:room])
    ids, places, ends = [], [], []
    for own in found:
        start = 1 if position == "prefix" else 1 + len(own)
        free = [tokenizer.eos_token_id] * count
        row = [tokenizer.bos_token_id, *(free + own if position == "prefix" else own + free), tokenizer.eos_token_id]
        ends.append(len(row) - 1)
        places.append(list(range(start, start + count)))
        ids.append(row + [tokenizer.pad_token_id] * (length - len(row)))
    return Sentences(*(torch.tensor(part, device=device) for part in (ids, places, ends)))


def with_word(
    tokenizer: "CLIPTokenizer", texts: Sequence[str], mark: str, length: int, device: torch.device
) -> Sentences:
    """Texts with one free place each, where the mark stands. A text that is too long loses its end, and if the mark is
    there, the words before it."""
    ids, places, ends = [], [], []
    for text in texts:
        before, _, after = text.partition(mark)
        own, rest = (
            tokenizer(part, add_special_tokens=False, truncation=True, max_length=length).input_ids
            for part in (before, after)
        )
        row = [tokenizer.bos_token_id, *own[: length - 3]]
        places.append([len(row)])
        row = [*row, tokenizer.eos_token_id, *rest][: length - 1]
        ends.append(len(row))
        ids.append([*row, tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (length - 1 - len(row)))
    return Sentences(*(torch.tensor(part, device=device) for part in (ids, places, ends)))


def joined(words: Sequence[str], prompt: str, position: str) -> str:
    """The text that `sentences` with these words at the free places is the encoding of."""
    return " ".join([*words, prompt] if position == "prefix" else [prompt, *words])


def plain(tokenizer: "CLIPTokenizer", prompts: Sequence[str], length: int, device: torch.device) -> Sentences:
    """The prompts with nothing free, cut to the length if they must be."""
    read = [tokenizer(prompt, truncation=True, max_length=length).input_ids for prompt in prompts]
    rows = [own + [tokenizer.pad_token_id] * (length - len(own)) for own in read]
    ends = torch.tensor([len(own) - 1 for own in read], device=device)
    return Sentences(torch.tensor(rows, device=device), torch.zeros((len(rows), 0), dtype=torch.long).to(device), ends)


def survives(tokenizer: "CLIPTokenizer", text: str, row: Sentences) -> bool:
    """Whether the tokenizer reads the text as the one sentence in `row`."""
    read = tokenizer(text, truncation=True, max_length=row.ids.shape[1]).input_ids
    return read == row.ids[0, : int(row.ends[0]) + 1].tolist()


def encode(text_encoder: "CLIPTextModel", rows: Sentences, vectors: Tensor | None = None) -> Tensor:
    """[N, L, D] float32, as `lethe.models.pipelines.encode_prompts` makes them, with a graph to `vectors`.

    `vectors` [N, k, W] are the embeddings at the free places; without them those of the ids that stand there.
    """
    mask = None
    if getattr(text_encoder.config, "use_attention_mask", False):
        mask = (torch.arange(rows.ids.shape[1], device=rows.ids.device) <= rows.ends[:, None]).long()
    if vectors is None:
        return text_encoder(rows.ids, attention_mask=mask)[0].float()
    with put(text_encoder, rows.places, vectors):
        return text_encoder(rows.ids, attention_mask=mask)[0].float()


@contextmanager
def put(text_encoder: "CLIPTextModel", places: Tensor, vectors: Tensor) -> Iterator[None]:
    """Within, the tokens at `places` [N, k] of each row have the vectors [N, k, W] for their embeddings: a hook on the
    token table, so that neither tokenizer nor text encoder change."""

    def replace(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        rows = torch.arange(len(output), device=output.device)
        return output.index_put((rows[:, None], places), vectors.to(output.dtype))

    handle = text_encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def teach(base: SimpleNamespace, words: Mapping[str, Tensor]) -> None:
    """Gives `base` copies of its tokenizer and text encoder that know further words, with these embeddings [W].

    Whoever reads the text by himself then reads them too, as an eraser does that acts while sampling.
    """
    base.tokenizer, base.text_encoder = copy.deepcopy(base.tokenizer), copy.deepcopy(base.text_encoder)
    base.tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    ids = base.tokenizer.convert_tokens_to_ids(list(words))
    old = base.text_encoder.get_input_embeddings().weight.detach()
    table = nn.Embedding(max(len(old), *(one + 1 for one in ids)), old.shape[1], dtype=old.dtype, device=old.device)
    with torch.no_grad():
        table.weight[: len(old)] = old
        table.weight[ids] = torch.stack([vector.to(old) for vector in words.values()])
    base.text_encoder.set_input_embeddings(table.requires_grad_(False))
    base.text_encoder.config.vocab_size = table.num_embeddings
    for module in base.text_encoder.modules():
        if hasattr(module, "eos_token_id"):  # 2, as in old configurations, makes the end the token of the highest id
            module.eos_token_id = base.tokenizer.eos_token_id


def simplex(values: Tensor) -> Tensor:
    """Rows [..., V] projected onto the simplex {x >= 0, sum x = 1}: max(values - m, 0), where bisection finds m.

    The sum falls in m, from at least 1 at max - 1 to 0 at max; 40 halvings leave 1e-12 of that, less than float32 has.
    """
    high = values.amax(-1, keepdim=True)
    low = high - 1
    for _ in range(40):
        middle = (low + high) / 2
        over = (values - middle).clamp(min=0).sum(-1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    found = (values - (low + high) / 2).clamp(min=0)
    return found / found.sum(-1, keepdim=True)


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(_context: object, chances: Tensor, uniform: Tensor) -> Tensor:
        steps = chances.cumsum(-1)
        picked = torch.searchsorted(steps, uniform[..., None] * steps[..., -1:], right=True)
        picked = picked.clamp(max=chances.shape[-1] - 1)
        return torch.zeros_like(chances).scatter_(-1, picked, 1.0)

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(-1, 1), None


def sampled(chances: Tensor, uniform: Tensor) -> Tensor:
    """One-hot draws [..., V] from rows of chances, by `uniform` [...] in [0, 1). Straight through: the gradient passes
    as it is, cut to [-1, 1] (2310.11868, released code)."""
    return _Sampled.apply(chances, uniform)


def levels(count: int, trained: int, where: str) -> list[int]:
    """`count` timesteps in the middles of equal parts of a schedule of `trained`, rising: 10, 30, ... for 50 of 1000.
    Raises UserError for more than there are."""
    if not 1 <= count <= trained:
        raise UserError(f"{where}: {count} is not from 1 to the model's {trained} timesteps")
    return [(2 * number + 1) * trained // (2 * count) for number in range(count)]
