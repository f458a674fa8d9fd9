"""Text that others wrote, made safe to print: it can neither move the cursor nor hide a character."""


def printable(text: str) -> str:
    r"""``text`` on one line; every control, format and direction character as an escape (``\x1b``).

    Line ends and tabs become the signs ⏎ and ⇥, so that the answer's shape stays visible.
    """
    text = text.replace("\r\n", "\n")
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character.isprintable():  # also false for Cf: bidirectional overrides, zero-width signs
        return character
    if character in "\n\t":
        return "⏎" if character == "\n" else "⇥"
    if character.isspace() and ord(character) > 0xFF:
        return " "
    code = ord(character)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )
