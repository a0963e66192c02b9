"""How a small base is made from captioned pictures: a latent diffusion model, and the judges that score what it draws.

Pictures are any imagefolder whose rows say style and content (`pictures`); `making` goes from them to a bundle. May
import `drawing`, `training` and what is below them, and no world; worlds import it.
"""
