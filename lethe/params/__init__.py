"""What a params file may say, and what an address is the hash of.

The rules and defaults of every key (`schema.yaml`, `rules`), the reader of files that extend others (`inheritance`),
the check that refuses what it does not know (`checking`, `options`), tables of changed values (`variation`), recipes,
and the registry that finds plug-ins by their file's name. May import `files`; imports no torch, so that planning is
quick.
"""
