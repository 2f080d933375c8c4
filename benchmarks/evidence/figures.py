"""Numbers from results: means and deviations over seeds, and paired differences."""

from dataclasses import dataclass
from statistics import mean, stdev

from benchmarks.evidence.results import Result


@dataclass(frozen=True)
class Spread:
    """Some values of the same kind.

    Attributes:
        values: In the order of seeds.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their arithmetic mean."""
        return mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Their standard deviation with n - 1 in the denominator; None for a single value."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def error(self) -> float | None:
        """The standard error of the mean: the deviation over the root of their number."""
        return None if self.deviation is None else self.deviation / len(self.values) ** 0.5

    @property
    def agreeing(self) -> int:
        """How many have the sign of their mean."""
        return sum(value * self.mean > 0 for value in self.values)


def by_seed(results: list[Result], study: str, arm: str) -> dict[int, Result]:
    """Results of one arm, by seed."""
    found = [r for r in results if (r["study"], r["arm"]) == (study, arm)]
    return {result["seed"]: result for result in sorted(found, key=lambda r: int(r["seed"]))}


def spread(arm: dict[int, Result], name: str) -> Spread:
    """Return the values of one entry of all seeds of an arm."""
    return Spread(tuple(float(result[name]) for result in arm.values()))


def paired(arm: dict[int, Result], other: dict[int, Result], name: str) -> Spread:
    """Return what an arm has over another, seed by seed; only seeds that both have count."""
    shared = [seed for seed in arm if seed in other]
    return Spread(tuple(float(arm[seed][name]) - float(other[seed][name]) for seed in shared))
