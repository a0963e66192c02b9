"""Networks on disk and in memory: base pipelines, pruned U-Nets with their strict loader, surgery, samplers' schedules,
multiply-accumulates, precisions, attention.

May import `files`. Nothing here trains, draws or measures.
"""
