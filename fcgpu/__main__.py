"""`python -m fcgpu` is `fcgpu`."""

import sys

from fcgpu.cli import main

sys.exit(main())
