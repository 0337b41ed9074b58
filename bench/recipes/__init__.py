"""Each library's own recipe for a test accuracy of 98 %; see bench.race. Its file says what else was tried."""
