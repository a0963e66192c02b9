"""What a params file may say, and what an address is the hash of.

The schema of every key, the reader that refuses what it does not know, tables of changed values, recipes, and the
registry that finds plug-ins by their file's name. May import `files`; imports no torch, so that planning is quick.
"""
