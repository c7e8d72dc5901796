"""What is missing, and how it is installed: with a stand-in for apt-get, since nothing is installed by tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcgate.demo import packages
from hpcgate.demo.packages import ensure_installed, find_program, missing_packages, needed, program
from hpcgate.demo.problems import DemoError

APT_GET = """#!/bin/sh
echo "$DEBIAN_FRONTEND $*" >> {log}
[ -x {policy} ] && {policy} ; echo "policy $?" >> {log}
case "$1" in
update) touch {bin}/.fresh;;
install) [ -e {bin}/.fresh ] || {{ echo "E: Unable to locate package"; exit 100; }}
  echo "Setting up fancy (1.0) ..."; printf '#!/bin/sh\\n' > {bin}/fancy; chmod 755 {bin}/fancy;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose programs are those of one directory, with an apt-get that must be refreshed first."""
    programs = tmp_path / "bin"
    programs.mkdir()
    log, policy = tmp_path / "log", tmp_path / "policy-rc.d"
    apt_get = programs / "apt-get"
    apt_get.write_text(APT_GET.format(log=log, policy=policy, bin=programs))
    apt_get.chmod(0o755)
    monkeypatch.setattr(packages, "SYSTEM_PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "_POLICY", policy)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return tmp_path


def test_what_a_cluster_needs_depends_on_its_parts() -> None:
    plain, full = needed(accounting=False, rest=False), needed(accounting=True, rest=True)
    assert "slurmdbd" not in plain
    assert {"slurmdbd", "mariadbd", "slurmrestd", "sshd"} <= full.keys()
    assert full["sacctmgr"] == "slurm-wlm"


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(DemoError, match="no-such-program is not installed; on Debian: apt-get install no-such-program"):
        program("no-such-program")
    assert program("sh") == find_program("sh")
    assert missing_packages({"sh": "dash", "no-such-program": "b", "nor-this": "a", "neither": "a"}) == ["a", "b"]


def test_missing_packages_are_installed_after_a_refresh_and_start_no_service(machine: Path) -> None:
    shown: list[str] = []
    assert ensure_installed({"fancy": "fancy-package"}, shown.append) == ["fancy-package"]
    log = (machine / "log").read_text()
    install = "noninteractive install -y -q --no-install-recommends fancy-package\npolicy 101\n"
    assert log == install + "noninteractive update -q\npolicy 101\n" + install
    assert not (machine / "policy-rc.d").exists()
    assert shown[0] == "installing fancy-package"
    assert "refreshing the list of packages" in shown
    shown.clear()
    assert ensure_installed({"fancy": "fancy-package"}, shown.append) == []
    assert shown == []


def test_a_policy_of_the_machine_is_left_alone(machine: Path) -> None:
    policy = machine / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 104\n")
    policy.chmod(0o755)
    ensure_installed({"fancy": "fancy-package"}, lambda _: None)
    assert "policy 104" in (machine / "log").read_text()
    assert policy.read_text().endswith("exit 104\n")


def test_a_failed_installation_says_why_and_takes_the_policy_away(machine: Path) -> None:
    (machine / "bin" / "apt-get").write_text("#!/bin/sh\necho 'E: no network'\nexit 100\n")
    with pytest.raises(DemoError, match="E: no network"):
        ensure_installed({"fancy": "fancy-package"}, lambda _: None)
    assert not (machine / "policy-rc.d").exists()


def test_an_installation_that_does_not_bring_the_program_is_an_error(machine: Path) -> None:
    (machine / "bin" / "apt-get").write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(DemoError, match="programs of fancy-package are still missing"):
        ensure_installed({"fancy": "fancy-package"}, lambda _: None)


def test_an_ordinary_user_gets_the_one_command_to_run(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    sudo = machine / "bin" / "sudo"
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    sudo.chmod(0o755)
    with pytest.raises(DemoError) as caught:
        ensure_installed({"fancy": "fancy-package", "other": "other-package"}, lambda _: None)
    command = str(caught.value).partition("Please run: ")[2]
    assert command == "sudo apt-get install -y -q --no-install-recommends fancy-package other-package"


def test_an_ordinary_user_with_sudo_installs_through_it(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    sudo = machine / "bin" / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1" = -n ] || exit 1\nshift\nexec env -i PATH="$PATH" "$@"\n')
    sudo.chmod(0o755)
    assert ensure_installed({"fancy": "fancy-package"}, lambda _: None) == ["fancy-package"]
    assert "noninteractive install" in (machine / "log").read_text()
    assert "policy 101" in (machine / "log").read_text()
    assert not (machine / "policy-rc.d").exists()


def test_this_machine_has_every_program_that_is_listed() -> None:
    """Holds the lists to Debian's truth: each program belongs to a package that was installed for the tests."""
    programs = needed(accounting=True, rest=True)
    ensure_installed(programs, lambda _: None)
    assert all(os.access(program(name), os.R_OK if name.endswith(".so") else os.X_OK) for name in programs)


def test_a_plugin_of_slurm_is_found_where_slurm_has_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "_LIBRARIES", tmp_path)
    plugin = tmp_path / "x86_64-linux-gnu" / "slurm-wlm" / "auth_jwt.so"
    assert find_program("auth_jwt.so") is None
    plugin.parent.mkdir(parents=True)
    plugin.touch()
    assert find_program("auth_jwt.so") == str(plugin)
    assert missing_packages({"auth_jwt.so": "slurm-wlm-jwt-plugin"}) == []


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    packages.require_libraries()
    monkeypatch.setattr(packages, "LIBRARIES", ("json", "no_such_library"))
    with pytest.raises(DemoError, match=r"needs no_such_library\. .*pip install 'hpcgate\[demo\]'"):
        packages.require_libraries()
