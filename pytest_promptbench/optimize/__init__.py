"""The prompt loop: propose from the weakest candidates, try on train scenarios, compare once on a locked test split.

``search`` runs GEPA's reflective, Pareto-based optimiser through its adapter. Every random choice has a seed and every
paid answer is kept before it is used, so a loop that was killed is resumed by running it again from its beginning: what
is known already is not asked for.
"""
