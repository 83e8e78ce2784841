"""The mathematics of the search: what a recipe will do, which recipes are worth a trial. Neither torch nor optuna."""
