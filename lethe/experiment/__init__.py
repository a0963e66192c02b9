"""From a params file to every result of an experiment: its address, its command, where it stands, what is left over.

What params name is looked over once (`given`). The nodes of each concern are planned in a module of their own, which
imports those before it: `samples`, `encoded`, `weights`, `arms`, `attacked`, `scores`; `plan` puts them together.

May import `measuring` and what is below it; no torch, so that planning is quick. Nothing here makes a result.
"""
