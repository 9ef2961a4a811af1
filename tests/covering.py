"""Fewer cases than all combinations, for tests of many choices that compile for each."""

import itertools


def triples(*factors):
    """Combinations of one value of each factor, in which any three values of three factors come together.

    Greedy, and the same each time: the combination that has the most triples that are still missing comes next.
    """
    if len(factors) < 4:
        raise ValueError("of three factors or fewer every combination is a triple: use several parametrize")
    rows = list(itertools.product(*factors))

    def held(row):
        return set(itertools.combinations(enumerate(row), 3))

    missing, chosen = set().union(*map(held, rows)), []
    while missing:
        best = max(rows, key=lambda row: len(held(row) & missing))
        chosen.append(best)
        missing -= held(best)
    return chosen
