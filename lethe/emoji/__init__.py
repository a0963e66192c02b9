"""Emoji: real pictures by real artists. The same official names drawn by several design teams, content times style.

`pictures.tar` is a picture set as `lethe.pretraining` reads it, LICENSES.md says whose work it is, and `render` makes
it again from the pinned packages (`sources`). May import `files`; nothing else knows this room.
"""
