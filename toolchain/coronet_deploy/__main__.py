"""`python -m coronet_deploy` is `coronet-deploy`."""

import sys

from coronet_deploy.cli import main

sys.exit(main())
