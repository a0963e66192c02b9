"""What every stage has: its command line, the record of what it made, reuse of what is there, stopping, one GPU a job.

May import `params`, `models` and `files`.
"""
