"""Healing and forgetting: pictures and their latents, losses with their equations, step functions, the one loop.

May import `texts` and what is below it. Plug-ins: `solvers/` (how both levels share a step) and `suppressions/` (the
upper level's loss); what a module of each must hold stands in the package's `__init__.py`.
"""
