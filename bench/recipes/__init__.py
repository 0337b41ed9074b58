"""Each library's own way to 98 % of the test digits; see bench.race. What was tried stands in its file."""
