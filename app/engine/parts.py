"""Which part of a tick an image rides in. Policy alone: no tensors, standard library only."""

from collections.abc import Mapping, Sequence

from app.engine.job import Image


def divide(
    images: Sequence[Image], parts: int, room: int, aloft: Mapping[int, int]
) -> list[list[Image]]:
    """Images by the part of a tick they ride in, at most `room` rows each; `room` is even, or all.

    An image whose slot is aloft, in a step that is not settled, stays in the part of that step if
    it can: a part that has all of its images need not wait for another.
    """

    def place(order: Sequence[Image]) -> list[list[Image]] | None:
        shares: list[list[Image]] = [[] for _ in range(parts)]
        free = [room] * parts
        for image in order:
            part = aloft.get(image.slot, parts)
            if part >= parts or free[part] < image.rows:
                part = max(range(parts), key=free.__getitem__)
                if free[part] < image.rows:
                    return None
            shares[part].append(image)
            free[part] -= image.rows
        return shares

    guided_first = sorted(images, key=lambda image: -image.rows)
    bound_first = sorted(guided_first, key=lambda image: image.slot not in aloft)
    shares = place(bound_first) or place(guided_first)  # pairs fit where they come first
    assert shares is not None, "more rows than the tick has"
    return shares
