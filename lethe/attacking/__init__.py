"""What attacks work with, and hand back: victims, searches for words, spellings of a concept.

May import `erasing`, `drawing` and what is below them. Plug-ins: `attacks/`; what a module must hold stands in its
`__init__.py`.
"""
