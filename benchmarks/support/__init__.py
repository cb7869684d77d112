"""Parts that the scripts of this folder share. The library is that of this checkout, whatever the current folder is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
