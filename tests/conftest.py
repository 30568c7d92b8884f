"""What tests of several folders share."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "system"))  # tiny_images
