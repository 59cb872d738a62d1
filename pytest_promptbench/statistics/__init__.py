"""Intervals, paired tests, agreement and calibration: pure functions over scores.

The scenario is the unit of every function here: repeats within it are averaged first (:func:`cluster_means`), and
resampling draws whole scenarios. Everything random takes a seed and gives the same answer for it. Importing this
package imports neither numpy nor scipy; the first call does. The method, with formulas and measured error rates, is in
``docs/statistics.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .agreement import AgreementReport, Estimate, FlagAgreement, RatedPair, ScaleAgreement, measure_agreement
    from .calibration import Calibrated, calibrated_mean
    from .intervals import mean_interval, wilson_interval
    from .paired import (
        PairedComparison,
        cluster_means,
        compare,
        differences,
        fewest_pairs,
        flipped_together,
        holm,
        minimum_detectable_effect,
        on_one_layer,
        sign_flip_p_value,
    )
    from .sequential import BehindTest, earliest_drop
    from .ties import Board, MeanEstimate, compare_estimates, tied_ranks
    from .wording import above, detectable, figure, p_text, signed

_HOME = {
    "AgreementReport": "agreement",
    "BehindTest": "sequential",
    "Board": "ties",
    "Calibrated": "calibration",
    "Estimate": "agreement",
    "FlagAgreement": "agreement",
    "MeanEstimate": "ties",
    "PairedComparison": "paired",
    "RatedPair": "agreement",
    "ScaleAgreement": "agreement",
    "above": "wording",
    "calibrated_mean": "calibration",
    "cluster_means": "paired",
    "compare": "paired",
    "compare_estimates": "ties",
    "detectable": "wording",
    "differences": "paired",
    "earliest_drop": "sequential",
    "fewest_pairs": "paired",
    "figure": "wording",
    "flipped_together": "paired",
    "holm": "paired",
    "mean_interval": "intervals",
    "measure_agreement": "agreement",
    "minimum_detectable_effect": "paired",
    "on_one_layer": "paired",
    "p_text": "wording",
    "sign_flip_p_value": "paired",
    "signed": "wording",
    "tied_ranks": "ties",
    "wilson_interval": "intervals",
}

__all__ = [
    "AgreementReport",
    "BehindTest",
    "Board",
    "Calibrated",
    "Estimate",
    "FlagAgreement",
    "MeanEstimate",
    "PairedComparison",
    "RatedPair",
    "ScaleAgreement",
    "above",
    "calibrated_mean",
    "cluster_means",
    "compare",
    "compare_estimates",
    "detectable",
    "differences",
    "earliest_drop",
    "fewest_pairs",
    "figure",
    "flipped_together",
    "holm",
    "mean_interval",
    "measure_agreement",
    "minimum_detectable_effect",
    "on_one_layer",
    "p_text",
    "sign_flip_p_value",
    "signed",
    "tied_ranks",
    "wilson_interval",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
