import copy

import pytest
import torch

from lethe.erasing import inversion
from lethe.models import pipelines
from lethe.stage.record import Budget
from lethe.training.data import generator
from lethe.training.finetune import draw
from lethe.training.losses import schedule
from tests.tiny_training import encoded, same

OPTIONS = {"batch": 4, "inversion_steps": 3, "inversion_lr": 0.02}
CONCEPTS = [{"prompt": "a sky by monet", "anchor": "a sky"}, {"prompt": "munch", "anchor": "a big sky"}]


def load(path):
    return pipelines.load_base(str(path), None, ["unet", "tokenizer", "text_encoder", "scheduler"])


@pytest.fixture(params=["tiny_base", "other_base"])
def base(request):
    return load(request.getfixturevalue(request.param))


def learn(base, pictures=None, concepts=CONCEPTS, **changed):
    length = base.tokenizer.model_max_length
    pictures = pictures or [encoded(base.unet, seed=seed, length=length) for seed in range(len(concepts))]
    table = schedule(base.scheduler, None, "legacy", torch.device("cpu"))
    budget = Budget()
    found = inversion.learn(base.unet, base, pictures, concepts, table, OPTIONS | changed, 0, budget)
    return found, budget


def test_a_word_that_exists_is_read_as_it_is_written(base):
    """With a known letter's embedding in the word's place, the sentence is the one that is spelled with that letter."""
    length = base.tokenizer.model_max_length
    ids, places, start = inversion.sentences(base, CONCEPTS, length)
    table = base.text_encoder.get_input_embeddings().weight
    letter = base.tokenizer("x", add_special_tokens=False).input_ids
    text = inversion._encode(base.text_encoder, ids, places, table[letter].expand(2, -1))
    wanted = pipelines.encode_prompts(base.tokenizer, base.text_encoder, ["a sky x", "a big sky x"])
    torch.testing.assert_close(text, wanted)
    spelled = base.tokenizer("by monet", add_special_tokens=False).input_ids
    torch.testing.assert_close(start[0], table[spelled].mean(0))


def test_an_anchor_that_fills_the_text_leaves_room_for_the_word(base):
    length = base.tokenizer.model_max_length
    ids, places, _ = inversion.sentences(base, [{"prompt": "munch", "anchor": "a " * 99}], length)
    assert ids.shape == (1, length)
    assert places.tolist() == [length - 2]
    assert ids[0, -1] == base.tokenizer.eos_token_id


def test_nothing_but_the_words_is_learnt(base):
    before = copy.deepcopy(base.unet), copy.deepcopy(base.text_encoder)
    untouched, _ = learn(base, inversion_steps=0)
    found, budget = learn(base)
    assert same(base.unet, before[0])
    assert same(base.text_encoder, before[1])
    assert not base.text_encoder.get_input_embeddings()._forward_hooks
    assert budget == Budget(student_forward=12, student_backward=12)
    assert found.losses.shape == (3,)
    assert untouched.losses.shape == (0,)
    assert torch.equal(found.text[0, 0], untouched.text[0, 0])  # what comes before the word does not see it
    assert not torch.equal(found.text[0, found.end[0]], untouched.text[0, found.end[0]])
    assert torch.equal(found.text, learn(base)[0].text)


def test_the_loss_is_lowered(tiny_base):
    """On noise that the inversion did not see."""
    base = load(tiny_base)
    with torch.no_grad():  # the random networks hardly hear the text; let them
        for name, parameter in base.unet.named_parameters():
            if "attn2.to_out" in name:
                parameter *= 20
    concepts, length = CONCEPTS[:1], base.tokenizer.model_max_length
    pictures = [encoded(base.unet, seed=0, length=length)]
    table = schedule(base.scheduler, None, "legacy", torch.device("cpu"))
    batch = draw(pictures, [24], table, generator(5, "test", 0))

    def value(text):
        with torch.no_grad():
            output = base.unet(batch.noisy, batch.t, text.expand(24, -1, -1)).sample
        return float((output - table.target(batch.latents, batch.noise, batch.t)).square().mean())

    before, _ = learn(base, pictures, concepts, inversion_steps=0)
    after, _ = learn(base, pictures, concepts, inversion_steps=40, batch=8)
    assert value(after.text) < value(before.text) - 0.01
