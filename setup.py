"""Put configs and the demo's checkpoints into a wheel, where flexselect/shipped.py finds them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("configs", "checkpoints/demo/video_llm", "checkpoints/demo/selector", "checkpoints/demo/two_looks")


class BuildWithConfigs(build_py):
    """The usual build, and a copy of what ships into flexselect/shipped; a checkout uses its own folders."""

    def run(self) -> None:
        """Copy packages, then configs and checkpoints."""
        super().run()
        if not self.editable_mode:
            for folder in SHIPPED:
                shutil.copytree(folder, Path(self.build_lib, "flexselect/shipped", folder), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
