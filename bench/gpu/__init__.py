"""`python -m bench gpu`: every measurement that needs a GPU, in a limited time.

A part is a file here with TITLE, LIMIT (in seconds) and `rows(device)`, a generator of dicts; if it has a parameter
`limit`, it gets its time limit in seconds. Each part runs in its own process and its rows are saved as they come, so
that a part that fails, hangs or runs out of time does not affect the others. The result is one JSON file: the machine,
and the rows and the ending of every part.
"""
