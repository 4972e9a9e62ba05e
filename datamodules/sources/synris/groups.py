"""Names that are connected by what they have in common."""

from collections.abc import Iterable


def connected(told: Iterable[tuple[str, Iterable[str]]]) -> dict[str, str]:
    """Which names belong together because a chain of common marks connects them.

    Args:
        told: Names, each with its marks; a name may come several times.

    Returns:
        For each name the one of its set that came first.
    """
    parent: dict[str, str] = {}
    owner: dict[str, str] = {}

    def first(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    place: dict[str, int] = {}
    for name, marks in told:
        parent.setdefault(name, name)
        place.setdefault(name, len(place))
        for mark in marks:
            roots = sorted({first(name), first(owner.setdefault(mark, name))}, key=place.__getitem__)
            parent[roots[-1]] = roots[0]
    return {name: first(name) for name in parent}
