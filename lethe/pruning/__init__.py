"""A dense U-Net cut down to a budget of multiply-accumulates; the gradients that some pruners judge by.

May import `training` and what is below it. Plug-ins: `pruners/`; what a module must hold stands in its `__init__.py`.
"""
