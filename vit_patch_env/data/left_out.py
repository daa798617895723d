"""What is left out when images are listed, counted by kind and put in words."""

from collections import Counter

from vit_patch_env.checks import counted
from vit_patch_env.system.shown import listed

_EXPECTED = {
    "hidden file", "hidden folder", "system file", "system folder",
    "empty folder", "folder reached twice by links",
}  # fmt: skip
"""What even a folder that people call empty may hold."""


class LeftOut:
    """Counts what a listing leaves out.

    Attributes:
        counts: by kind, in the singular.
        names: of some kinds, the suffixes or names to show.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.names: dict[str, set[str]] = {}

    def add(self, kind: str, name: str | None = None, count: int = 1) -> None:
        """Count something of a kind, and remember a name for the note."""
        self.counts[kind] += count
        if name is not None:
            self.names.setdefault(kind, set()).add(name)

    def update(self, other: "LeftOut") -> None:
        """Add the counts of another folder."""
        self.counts.update(other.counts)
        for kind, names in other.names.items():
            self.names.setdefault(kind, set()).update(names)

    def unexpected(self) -> "LeftOut":
        """The same without what even a folder that people call empty may hold."""
        rest = LeftOut()
        rest.counts = Counter(
            {kind: count for kind, count in self.counts.items() if kind not in _EXPECTED}
        )
        rest.names = self.names
        return rest

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """Such as "3 hidden files, 2 files that are no images (.txt)"."""
        parts = []
        for kind in sorted(self.counts):
            names = self.names.get(kind)
            shown = f" ({listed(sorted(names))})" if names else ""
            parts.append(f"{counted(self.counts[kind], kind)}{shown}")
        return ", ".join(parts)
