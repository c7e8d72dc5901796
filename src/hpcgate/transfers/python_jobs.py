"""Jobs that run a Python program on a compute node."""

from importlib.resources import files

from pydantic import Field

from hpcgate.config import TransferSettings
from hpcgate.config.values import HttpUrl
from hpcgate.ssh.commands.temporary import SAFE
from hpcgate.transfers.script import STAGE


class PythonSettings(TransferSettings):
    """Where a job finds its Python and the package that it needs."""

    python: str = Field("python3", min_length=1, description="The Python on the compute nodes, 3.8 or later.")
    install: bool = Field(
        True,
        description="Whether each job makes a virtual environment and installs the package; else python has it.",
    )
    pypi_index_url: HttpUrl | None = Field(
        None, description="The package index that jobs install from; pip's if unset."
    )

    def environment(self, requirement: str) -> dict[str, str]:
        """Return the shell variables that `ENVIRONMENT` reads.

        Args:
            requirement: What pip is to install.
        """
        return {
            "python": self.python,
            "install": requirement if self.install else "",
            "index": self.pypi_index_url or "",
        }


_BEGIN = (
    SAFE
    + """
environment=
clear_up() {
  if [ -n "$environment" ]; then rm -rf -- "$environment"; fi
  unstage
}
# The log is to say what goes on while it goes on.
PYTHONUNBUFFERED=1
export PYTHONUNBUFFERED
if [ -n "$install" ]; then
  environment=$(mktemp -d -p "$(_hpcgate_temporary)") || exit
  # Not as an option: the index may want a password, which ps would show.
  if [ -n "$index" ]; then
    PIP_INDEX_URL=$index
    export PIP_INDEX_URL
  fi
fi
"""
)

ENVIRONMENT = (
    _BEGIN
    + """\
if [ -n "$install" ]; then
  # -I: where the job stands there may be modules of others.
  "$python" -I -m venv -- "$environment" >&2 || exit
  python=$environment/bin/python
  "$python" -I -m pip install --quiet --disable-pip-version-check --no-input -- "$install" >&2 || exit
fi
"""
)
"""Makes `python` one that has the package; what it made is gone however the script ends."""

ENVIRONMENT_LATER = (
    _BEGIN
    + """\
HPCGATE_INSTALL=$install
HPCGATE_ENVIRONMENT=$environment
export HPCGATE_INSTALL HPCGATE_ENVIRONMENT
"""
)
"""As `ENVIRONMENT`, but leaves it to the program to install the package, where it has more urgent things to do."""

RECEIVE = f"""\
{STAGE}
settle "$target"
if [ -d "./$base" ]; then fail "$target: Is a directory"; fi
stage
"""
"""After either `ENVIRONMENT`: goes to a directory beside the target, where ``./new`` is to become ``../$base``."""


def run(program: str) -> str:
    """Return shell lines that run one of the programs here with `python`; its exit status is left in ``$?``."""
    source = files("hpcgate.transfers").joinpath(f"{program}.py").read_text("utf-8")
    # The program is quoted text to the shell, and comes by a descriptor: no file to make, standard input stays free.
    return f"\"$python\" /dev/fd/3 </dev/null 3<<'END_OF_PROGRAM'\n{source}END_OF_PROGRAM\n"
