"""Pruning criteria: `importance(unet, groups)` scores every inner channel of every prunable layer.

`groups` maps a layer's module path to its torch-pruning group: all weight slices that go with a channel, root first.
The result maps the same paths to float tensors [channels], on any device; only the order inside one layer matters.
"""
