"""What tests of both token searches share: a victim that hears its text, options, and a run."""

import dataclasses

import torch

from lethe.attacking.victims import Victim
from lethe.stage.record import Budget
from lethe.training import loop
from tests.attacking.attacks.victims import victim

OPTIONS = {"tokens": 2, "position": "prefix", "timesteps": 4, "iterations": 3, "lr": 0.1, "batch": 8}


def hearing(path, **changed) -> Victim:
    """Random networks hardly hear the text; this one does, and the dense base is another."""
    made = victim(path, **changed)
    torch.manual_seed(0)
    for unet in (made.unet, made.base.unet):
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                if "attn2.to_out" in name:
                    parameter *= 20 if unet is made.unet else 12
    made.unet.requires_grad_(False)
    return made


def only(own: Victim, keys) -> Victim:
    """The victim with some of its rows."""
    rows = {name: [row for row in rows if (name, row.case_number) in keys] for name, rows in own.rows.items()}
    return dataclasses.replace(own, rows={name: kept for name, kept in rows.items() if kept})


def run(attack, own, folder, seed=0, **changed):
    budget = Budget()
    return attack(own, OPTIONS | changed, seed, loop.Keeping(folder, "r", 0), budget), budget
