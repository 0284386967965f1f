"""What each token of a sequence adds to its text, which is more than what it would be alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

LOST = "\ufffd"  # stands for bytes that are no whole character (yet)
CONTEXT = 6  # tokens before the first one that are looked at: decoders drop the space before a first word


def pieces(decode: Callable[[list[int]], str], tokens: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """The text that each token adds: joined, they are the text of all.

    A token that ends inside a character adds nothing; the one that completes it adds the whole of it. What never
    becomes a character stands as U+FFFD where the text ends.

    Args:
        decode: the text of some tokens, without special ones.
        tokens: to be read.
        before: what comes before them.
    """
    context = list(before[-CONTEXT:])
    known = [*context, *tokens]
    # Of the tokens from `start` on the text up to `done` is told: what a decoder makes of a token depends on its
    # neighbours, not on the whole sequence.
    start, done = 0, len(context)
    told = decode(known[start:done]).rstrip(LOST) if context else ""
    added = []
    for behind in range(done + 1, len(known) + 1):
        whole = decode(known[start:behind])
        if whole.endswith(LOST) and behind < len(known):
            added.append("")
            continue
        added.append(whole[len(told) :])
        start, done = done, behind
        told = decode(known[start:done])
    return added
