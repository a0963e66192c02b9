"""The samplers that draw, made over a base model's own noise schedule."""

from collections.abc import Mapping

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from lethe.files.errors import UserError


def build_scheduler(name: str, config: Mapping, steps: int) -> DDIMScheduler | DPMSolverMultistepScheduler:
    """The sampler over the base's noise schedule, prediction type and timestep spacing. DDIM: eta 0, 2010.02502 eq. 12;
    dpmsolver++: second order multistep, 2211.01095 alg. 2. Raises UserError for more steps than the schedule has."""
    if name == "ddim":
        made = DDIMScheduler.from_config(config)
    else:
        made = DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")
    if steps > made.config.num_train_timesteps:
        raise UserError(f"sample.steps: {steps} is more than the model's {made.config.num_train_timesteps} timesteps")
    return made
