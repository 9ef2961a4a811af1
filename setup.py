"""What setup.cfg cannot say: a wheel carries notebooks, sweep files and recorded results, which ``nqm`` reads.

They go where ``nqm_tools/_shipped.py`` looks for them. An editable installation has them in the clone.
"""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

SHARED = (
    "notebooks/[0-9A-Z]*.ipynb",
    "notebooks/GLOSSARY.md",
    "experiments/*.toml",
    "experiments/*.py",
    "data/results/claims.csv",
    "data/results/*/*.parquet",
)


class BuildWithShared(build_py):
    """The package, and beside its modules ``_share/``."""

    def run(self):
        """Build, and copy."""
        super().run()
        if self.editable_mode:
            return
        shutil.rmtree(self._share(), ignore_errors=True)  # of an earlier build
        for source, target in self._shared().items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode=True):
        """All that is built."""
        built = super().get_outputs(include_bytecode)
        return built if self.editable_mode else [*built, *map(str, self._shared().values())]

    def _share(self):
        return pathlib.Path(self.build_lib) / "nqm_tools" / "_share"

    def _shared(self):
        root = pathlib.Path(__file__).resolve().parent
        files = [path for pattern in SHARED for path in sorted(root.glob(pattern)) if not path.name.startswith(".")]
        return {path: self._share() / path.relative_to(root) for path in files}


setup(cmdclass={"build_py": BuildWithShared})
