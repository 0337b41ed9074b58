"""Each library's own way to 98 % of the test digits; see bench.race. How each was tuned stands in its file."""
