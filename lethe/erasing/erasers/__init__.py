"""Erasers: a module each, with one function and a few constants that are read without importing it.

    OPTIONS   JSON schema of its options, each with a "default", the published value where there is one; without one it
              must be given. {"$ref": "#/$defs/NAME"} is a rule that lethe/params/schema.yaml keeps for several. Two
              words more: "atMost": "sampler_steps" (not above that option), and "with": {"student": {"reuse": 1}}
              (this value goes with that one alone). A third for an option that comes later than the first results:
              "former" is the value that says what was done without it; with that one addresses stay as they were
    VERSION   without it 1; to be raised when its results change under the same options. Above 1 it is part of their
              address, so that those of other erasers keep theirs. {option: {value: version}} if it is one value's
              results that changed
    NEEDS     ["concepts"], ["concepts", "data"]: encoded pictures of the concepts, and of fine-tuning
    ZEROES    True of one that sets weights to zero: where they are is told to attacks
    GUIDES    True of one that leaves the weights alone and acts while sampling; PASSES: its forwards a step,
              or {option: forwards} if an option that is on brings them

    erase(unet, base, concepts, options, seed, keeping, budget) -> lethe.erasing.erased.Erased

edits `unet` in place: dense or pruned, with whatever blocks and widths, so layers are found by their names' ends.
`base` holds tokenizer, text_encoder, scheduler, vae, latent_shape (C, h, w), and what NEEDS names: `concepts`
{name: Encoded} and `data`. `concepts` are {name: {"prompt", "anchor"}}, sorted. One that trains hands its steps to
`lethe.training.loop.run` with `keeping`, which makes it resumable; all count their passes in `budget`. A GUIDES eraser
returns `guidance`, plain JSON with its name under "eraser", and has `guide(base, unet, record, settings, embeddings)`,
which `lethe.drawing.sampling` calls once a process and which answers a function of a tile's prompts.
"""
