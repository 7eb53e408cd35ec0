"""``python -m gan_regularizers`` is the command ``gan-regularizers``."""

import sys

from .commands import main

sys.exit(main())
