"""Pruners: `prune(unet, goal)` brings a dense U-Net down to a MACs budget, and OPTIONS are the schema of its options.

`goal` is a `lethe.pruning.narrowing.Goal`. The result is the pruned U-Net, the same object or another, and the record
of `pruning.json`: {path: {"kind", "total", "kept"}}, as `lethe.models.cutting.cut` reads it, so that one strict loader
opens the work of all. Paths are those of the result before it was cut. A pruner whose result has fewer blocks in its
config.json names them, by their paths in the dense net, with `removed(unet)`. NEEDS lists what a pruner reads beside
the base
model: "data", encoded pictures, which `goal.calibration` holds; "checkpoint", a folder named by the option of that
name, which the module's `check(options)` looks over without importing torch. VERSION, 1 if there is none, is raised
when a pruner's results change under the same options: above 1 it is part of their address.

What they cost, where W is the number of weights, F a forward pass of one picture, and T the training timesteps:

magnitude     one read of W, and the dependency graph, which all but aptp and its kind need too (block removers only if
              width goes as well): it grows with the number of layers times their width, not with the resolution
random        the graph alone
random_init   as magnitude, and a new net of W weights
taylor        pictures * T / stride passes forward and backward, 3 F each: grows with pictures and resolution, and as
              the stride falls; memory: a gradient beside every weight, and the activations of `batch` pictures
diff_pruning  as taylor, but only to the timestep where it stops: a low threshold stops late
bk_base, bk_small, bk_tiny  one read of W
aptp          one read of the checkpoint; its search was paid for by those who published it
aptp_random_init  a new net of W weights, and the checkpoint's gates

A pruner's result is also counted once for MACs and timed, on the device, which is a few forward passes of 9 pictures.
"""
