"""Pictures from weights and prompts, each of which depends on its own row alone; milliseconds and sizes.

May import `training` and what is below it.
"""
