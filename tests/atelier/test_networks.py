"""The bundle's networks: what must not change from one process to the next."""

import subprocess
import sys

from lethe.atelier.captions import corpus
from lethe.pretraining import networks

NUMBERS = """
from lethe.pretraining import networks
from lethe.atelier.captions import corpus
texts = corpus(300)
print([networks.tokenizer(texts)(text).input_ids for text in texts[:40]])
"""


def test_the_tokenizer_numbers_words_alike_in_every_process():
    first, second = (
        subprocess.run([sys.executable, "-c", NUMBERS], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second and "[[0, " in first


def test_common_words_are_one_token_and_unknown_ones_still_have_some():
    words = networks.tokenizer(corpus(1000))
    start, end = words.bos_token_id, words.eos_token_id
    found = words("a boat by monet").input_ids
    assert found[0] == start and found[-1] == end and len(found) == 6
    assert len(set(found)) == 6
    assert len(words("zebra").input_ids) > 3
    padded = words("", padding="max_length").input_ids
    assert padded == [start] + [end] * (networks.TEXT_LENGTH - 1)


def test_networks_fit_each_other_and_the_size_of_the_bundle():
    words = networks.tokenizer(corpus(300))
    parts = [networks.unet(), networks.autoencoder(), networks.text_encoder(words), networks.descriptor()]
    parts += [networks.judge(("a",) * 10) for _ in range(3)] + [networks.clip(len(words), words.eos_token_id)]
    assert parts[0].config.cross_attention_dim == parts[2].config.hidden_size
    assert parts[0].config.in_channels == parts[1].config.latent_channels
    megabytes = 2 * sum(p.numel() for part in parts for p in part.parameters()) / 1e6
    assert megabytes < 15.8  # in float16, leaving room for tokenizers and sheets within 16 MB
