"""``python -m gan_regularizers`` is the command ``gan-regularizers``."""

import sys

from .cli import main

sys.exit(main())
