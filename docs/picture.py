"""Make docs/images/first.png by running the first Python block of README.md."""

import os
import re
from pathlib import Path

root = Path(__file__).resolve().parent.parent
block = re.search(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL).group(1)
os.chdir(root / "docs" / "images")
exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
