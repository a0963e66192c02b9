"""What is said about a picture: its official name and tags, and the style's word, in several wordings."""

from lethe.emoji.world import Name

# names that take no article beside those that look like a plural
BARE = {
    "bacon", "camping", "construction", "cooked rice", "cooking", "curry rice", "fog", "high voltage", "mount fuji",
    "popcorn", "spaghetti", "badminton", "ping pong", "ice hockey", "confetti ball", "building construction",
}  # fmt: skip
SINGULAR = {"glass of milk", "bus", "cactus", "compass", "dress", "lens", "telephone booth", "hourglass done"}
SINGULAR |= {"hourglass not done", "oncoming bus", "octopus"}
BY_NAME = "{a} in the style of {style}"  # the plainest: pictures are asked for by it
WORDINGS = (
    BY_NAME,
    "a {style} emoji of {a}",
    "an emoji of {a} in the style of {style}",
    "{name}, {style}",
    "{name}, {style} style",
)
TAGGED = "{a}, {tags}, in the style of {style}"  # with two tags, where a name has some
NAMELESS = "an emoji in the style of {style}"
STYLELESS = "{a}"
NEITHER = "an emoji"


def phrase(name: Name) -> str:
    """The name with its article: "a hot dog", "an anchor", "french fries"."""
    words = name.content
    head = words.split(" with ")[0].split(" of ")[0].split(" and ")[0]
    plural = head.endswith("s") and not head.endswith("ss")
    if words in BARE or (plural and words not in SINGULAR):
        return words
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def row(name: Name, style: str) -> dict[str, object]:
    """The columns of a picture's row beside its file."""
    own = set(name.content.split())
    tags = [tag for tag in name.tags if tag not in own and tag.isalpha() and tag.isascii()][:2]
    how = {"a": phrase(name), "name": name.content, "style": style, "tags": ", ".join(tags)}
    texts = [wording.format(**how) for wording in WORDINGS + ((TAGGED,) if tags else ())]
    return {
        "text": texts[0],
        "texts": texts[1:],
        "loose": [STYLELESS.format(**how), STYLELESS.format(**how), NAMELESS.format(**how), NEITHER],
        "style": style,
        "content": name.content,
        "group": name.group,
    }
