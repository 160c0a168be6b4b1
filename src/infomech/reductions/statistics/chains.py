"""Exponentials that are powers of each other: one is computed, the others are its squares."""

from collections.abc import Mapping


def geometric_chains(exponents: Mapping[str, float], *, ratio: float) -> list[list[list[str]]]:
    """Split exponents by name into chains e, ratio e, ratio^2 e, ...: for each its names at e, at ratio e, and so on.

    >>> geometric_chains({"a": 1.0, "b": 4.0, "c": 3.0, "d": 1.0}, ratio=4.0)
    [[['a', 'd'], ['b']], [['c']]]
    """
    chains: list[tuple[float, list[list[str]]]] = []
    for name, exponent in sorted(exponents.items(), key=lambda item: item[1]):
        for start, steps in chains:
            last = start * ratio ** (len(steps) - 1)
            if abs(exponent - last) <= 1e-12 * exponent:
                steps[-1].append(name)
                break
            if abs(exponent - ratio * last) <= 1e-12 * exponent:
                steps.append([name])
                break
        else:
            chains.append((exponent, [[name]]))
    return [steps for _, steps in chains]


__all__ = ["geometric_chains"]
