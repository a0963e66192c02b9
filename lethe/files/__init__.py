"""Files that are whole or absent, and what is read and written through them: safetensors, pictures, checkpoints.

The ground floor: nothing here knows what a model, a stage or an experiment is, and nothing of lethe is imported. The
exceptions for a user's mistake (`errors`) stand here too, since every room raises them.
"""
