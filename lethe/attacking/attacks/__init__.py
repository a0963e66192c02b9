"""Attacks: a module each, with one function and a few constants that are read without importing it.

    OPTIONS   JSON schema of its options, as an eraser's
    VERSION   as an eraser's
    NEEDS     what it reads beside the victim ({option: {value: list}} where an option decides), any of
                  "originals"  what the dense base drew for the same rows
                  "data"       encoded fine-tuning pictures
                  "concepts"   encoded pictures of each concept
                  "dense"      the dense base U-Net (the stage has it anyway; said for the reader)
                  "zeros"      weights that the eraser set to zero: planned only for erasers with ZEROES = True
    FILES     name of an option that maps each concept to a prompt CSV: these files count by their content

    attack(victim, options, seed, keeping, budget) -> lethe.attacking.victims.Attacked

`victim` is a `lethe.attacking.victims.Victim`. All draws come from `lethe.training.data.generator(seed, stream, k)`,
and what concerns one row depends on that row alone, so that fewer prompts change no picture. One that trains weights
hands its steps to `lethe.training.loop.run` with `keeping`, which makes it resumable; others may keep what they have
found, a file a row, under `keeping.folder`, a folder of their own. All count their passes through U-Nets in `budget`.

The stage draws with what comes back: the rows' seeds, section `sample`, and the victim's guidance if it has one.
Whether the concept is in the pictures is for the scores to say (column `shown`), not for the attack.
"""
