"""Makes the benchmark scripts importable without putting the repository's folders on the module path."""

import sys
from types import ModuleType

from swarm.orchestrator.commands import bench

if bench.FOLDER not in sys.modules:
    package = ModuleType(bench.FOLDER)
    package.__path__ = [str(bench.ROOT / bench.FOLDER)]
    sys.modules[bench.FOLDER] = package
