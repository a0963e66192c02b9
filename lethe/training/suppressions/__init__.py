"""Losses of the upper level. A module each, with `loss` and OPTIONS, the JSON schema of its options.

`loss(student, teacher, batch, options, budget)` is a float32 scalar with a graph to the student alone; it counts what
it asks of both. `batch` is a `finetune.Batch`: noised latents that show the concept, with captions c that name it, and
`options` a mapping that holds the module's own keys. A loss that needs captions with the concept taken out
(`batch.anchor`), or the place of the concept's tokens (`batch.mask`), has NEEDS = ["anchor"] or ["mask"]; if that hangs
on its options, a function `needs(options)`. VERSION, 1 if there is none, is raised when its results change under the
same options: above 1 it is part of their address. An eraser that takes the loss from here raises its own, too.
"""
