"""Finding the best front in the time given: the evaluation of candidates and the loop over them."""
