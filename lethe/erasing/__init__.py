"""What erasers work with: the U-Net to edit, which of its weights may move, textual inversion, closed-form edits.

May import `measuring`, `pruning`, `drawing` and what is below them. Plug-ins: `erasers/`; what a module must hold
stands in its `__init__.py`.
"""
