"""Makes the benchmark scripts importable without putting the repository's folders on the module path."""

import sys
from types import ModuleType

from swarm.orchestrator import benches

if benches.FOLDER not in sys.modules:
    package = ModuleType(benches.FOLDER)
    package.__path__ = [str(benches.ROOT / benches.FOLDER)]
    sys.modules[benches.FOLDER] = package
