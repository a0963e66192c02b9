"""Atelier: a small painted world in which the truth about every picture is known.

Pictures (`world`), captions (`captions`) and splits (`splits`) need numpy, Pillow and scipy only; no network, no GPU.
"""
