"""From a params file to every result of an experiment: its address, its command, where it stands, what is left over.

May import `measuring` and what is below it; no torch, so that planning is quick. Nothing here makes a result.
"""
