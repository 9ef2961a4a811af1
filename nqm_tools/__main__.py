"""``python -m nqm_tools`` is the ``nqm`` command."""

import sys

from nqm_tools.cli import main

sys.exit(main())
