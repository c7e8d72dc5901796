"""``hpcgate demo`` as a newcomer runs it."""

import json
import os
import pwd
import re
import signal
import subprocess
import sys
from pathlib import Path

DEMO = [sys.executable, "-m", "hpcgate.cli", "demo"]


def left_over(directory: str) -> list[str]:
    """Return what is left of a demo: its directory, its users, its processes."""
    found = [directory] if Path(directory).exists() else []
    found += [user.pw_name for user in pwd.getpwall() if user.pw_dir.startswith(directory)]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if directory.encode() in process.read_bytes():
                found.append(str(process))
        except OSError:
            continue
    return found


def test_the_tour() -> None:
    """The demo's tour runs to its end."""
    environment = {**os.environ, "ONCE": "1"}
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("access token", "List the systems", "COMPLETED", "Hello from", "The tour is complete."):
        assert words in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("  $ ")]
    assert len(lines) >= 10
    assert lines[0].startswith("  $ TOKEN=$(curl ")
    assert all(line.startswith(("  $ TOKEN=", "  $ curl ")) for line in lines)
    directory = re.search(r"/tmp/hpcgate-demo-\w+", done.stdout)
    assert directory is not None
    assert left_over(directory[0]) == []


def test_it_stays_until_ctrl_c_and_its_lines_can_be_pasted(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ONCE"}
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as demo:
        try:
            assert demo.stdout is not None
            lines = []
            for line in demo.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith("The users:"):
                    # One line for each of them follows.
                    lines += [demo.stdout.readline().rstrip("\n") for _ in range(1 + (os.geteuid() == 0))]
                    break
            text = "\n".join(lines)
            directory = re.search(r"/tmp/hpcgate-demo-\w+", text)
            assert directory is not None
            token = next(line.strip() for line in reversed(lines) if line.strip().startswith("TOKEN=$("))
            systems = next(line.removeprefix("  $ ") for line in lines if "/status/systems" in line)
            pasted = subprocess.run(
                ["bash", "-c", f"{token}\n{systems}"], capture_output=True, text=True, timeout=600, check=False
            )
            assert '"demo"' in pasted.stdout, pasted.stderr
            assert {'"s3"', '"streamer"'} <= set(re.findall(r'"\w+"', pasted.stdout)), pasted.stdout
            exports = [line.strip() for line in lines if line.strip().startswith("export ")]
            client = next(line.strip() for line in lines if line.strip().endswith("firecrest systems"))
            pasted = subprocess.run(
                ["bash", "-c", "\n".join([*exports, client])], capture_output=True, text=True, timeout=300, check=False
            )
            assert "demo" in pasted.stdout, pasted.stderr
            users = lines[lines.index("The users:") + 1 :]
            assert all(re.search(r" home /\S+   client demo-\w+   secret \S+$", user) for user in users)
            # What stands for the places of the user guide and of the first steps.
            home = re.search(r" home (/\S+) ", users[0])
            assert home is not None
            assert f"In place of /scratch/alice put {home[1]} there; the account is demo." in lines
            assert any(line.endswith(f" USER_HOME={home[1]}") for line in exports)
            # All that the invitation shows, in an empty directory: a job, and a file too large to go as it is.
            first = lines.index(next(line for line in lines if line.startswith("  export ")))
            shown = [line.strip() for line in lines[first:] if line.startswith("  ") and " home /" not in line]
            pasted = subprocess.run(
                ["bash", "-e", "-c", "\n".join(shown)],
                capture_output=True, text=True, timeout=600, cwd=tmp_path, check=False,
            )  # fmt: skip
            assert pasted.returncode == 0, pasted.stdout + pasted.stderr
            assert (Path(home[1]) / "my-large-file").read_bytes() == (tmp_path / "my-large-file").read_bytes()
            userinfo = systems.replace("/status/systems", "/status/demo/userinfo")
            pasted = subprocess.run(
                ["bash", "-c", f"{token}\n{userinfo}"], capture_output=True, text=True, timeout=600, check=False
            )
            who = json.loads(pasted.stdout)
            assert {group["name"] for group in who["groups"]} & {account["name"] for account in who["accounts"]}
            demo.send_signal(signal.SIGINT)
            demo.communicate(timeout=600)
        finally:
            demo.kill()
    assert demo.returncode == 0
    assert left_over(directory[0]) == []
