"""One row of a prompt list, and what its cells may hold."""

from dataclasses import dataclass

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Prompt:
    """One picture to draw. `content` is the CSV's column `class`; `category` may name several, with commas between."""

    case_number: int
    prompt: str
    seed: int
    artist: str | None = None
    content: str | None = None
    file_name: str | None = None
    category: str | None = None
    pair: tuple[str, str] | None = None
    profession: str | None = None


def split_categories(text: str) -> tuple[str, ...]:
    """Names with commas between them: sexual, shocking -> ("sexual", "shocking")."""
    return tuple(dict.fromkeys(word for part in text.split(",") if (word := part.strip())))
