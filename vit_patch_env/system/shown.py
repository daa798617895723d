"""Names from the disk, as they are shown."""


def escaped(text: str) -> str:
    """The text in one printable line.

    Line breaks, terminal escapes and bytes that are not UTF-8 become backslash sequences.
    """
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        for letter in text
    )
