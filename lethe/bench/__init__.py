"""Speed and memory of the stages' own functions, beside the released trainer's choices and the card's own ceiling.

Networks have published forms and random weights (`sizes.yaml`), so nothing is downloaded. `python -m stages.bench`
writes reports/bench/<device>.json and a table beside it. Nothing else imports this room.
"""
