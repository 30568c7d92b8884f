"""What tests of several folders share."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE / "system"), str(HERE / "cpu")]  # tiny_images, cpu_support
