"""Files that outlive a run. Everything here is written whole or not at all, and nothing is unpickled."""
