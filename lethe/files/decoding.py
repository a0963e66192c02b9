"""Picture files of anybody's, read by one rule: what loses nothing becomes upright RGB, the rest is refused.

Grey and palette pictures, CMYK and an alpha channel that hides nothing are converted. Refused are transparency (its
hidden colours are nobody's choice, and the background is ours to guess), more than eight bits a channel, several frames
(which of them is meant?), and files that are not whole.
"""

import io

from PIL import Image, ImageOps

from lethe.files.errors import UserError

EIGHT_BITS = ("RGB", "L", "1", "P", "CMYK", "YCbCr", "LA", "PA", "RGBA", "La", "RGBa", "RGBX")
PHOTOGRAPH = "MPO"  # a camera's JPEG with a preview or the other eye behind it


def decoded(where: str, content: bytes) -> tuple[Image.Image, str]:
    """Bytes of a picture file -> upright RGB picture, and the mode it came in.

    Raises UserError naming the file (`where`) and what to do if it is no whole picture, or one that would lose
    something.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            mode, frames = picture.mode, getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format != PHOTOGRAPH:
                raise UserError(f"{where}: has {frames} frames; save the one that is meant")
            upright = ImageOps.exif_transpose(picture)
            if mode in EIGHT_BITS and upright.has_transparency_data and _hides(upright):
                raise UserError(f"{where}: has transparent parts; put it on a background (mode RGB) and try again")
            if mode not in EIGHT_BITS:
                raise UserError(f"{where}: has mode {mode}, more than eight bits a channel; save it as 8-bit RGB")
            return upright.convert("RGB"), mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: not a readable picture ({error}); mend it or drop the row") from None


def _hides(picture: Image.Image) -> bool:
    return any(picture.convert("RGBA").getchannel("A").histogram()[:255])  # pixels below full opacity
