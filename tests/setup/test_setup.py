#!/usr/bin/env python3
"""tools/setup.sh with stand-ins for dpkg-query, id, sudo and apt-get: what it asks for, runs and prints."""
import os
import pathlib
import pty
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SETUP = ROOT / "tools/setup.sh"

STAND_INS = {
    "dpkg-query": """case "$*" in *Provides*) echo "$PROVIDED"; exit;; esac
for last; do :; done
case " $MISSING " in *" $last "*) exit 1;; esac
printf 'install ok installed'""",
    "id": 'echo "$FAKE_UID"',
    "apt-get": 'echo "apt-get $*" >>"$LOG"',
    "sudo": 'if [ "$1" = -n ]; then exit "$ASKS_PASSWORD"; fi; echo "sudo $1" >>"$LOG"; "$@"',
}
TOOLS = ("cat", "dirname", "env", "grep")  # what else the script calls; nothing more is within its reach


class Setup(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name, body in STAND_INS.items():
            self.add(name, body)
        for name in TOOLS:
            (self.folder / name).symlink_to(shutil.which(name))
        self.add("python3", f'exec {sys.executable} "$@"')

    def add(self, name, body):
        path = self.folder / name
        path.write_text("#!/bin/sh\n" + body + "\n")
        path.chmod(0o755)

    def run_setup(self, *words, missing="", provided="", uid=1000, asks_password=1, stdin=subprocess.DEVNULL):
        """Exit code, outputs, and the commands that would have changed the system."""
        log = self.folder / "log"
        log.write_text("")
        # ATELIER_TORCH keeps the virtual environment out of it.
        done = subprocess.run(["/bin/bash", SETUP, *words], stdin=stdin, capture_output=True, text=True, timeout=60,
                              env={"PATH": str(self.folder), "HOME": str(self.folder), "LOG": str(log),
                                   "MISSING": missing, "PROVIDED": provided, "FAKE_UID": str(uid),
                                   "ASKS_PASSWORD": str(asks_password), "ATELIER_TORCH": "/elsewhere"})
        return done.returncode, done.stdout, done.stderr, log.read_text().splitlines()

    def test_does_and_says_nothing_when_nothing_is_missing(self):
        start = time.monotonic()
        self.assertEqual(self.run_setup(), (0, "", "", []))
        self.assertLess(time.monotonic() - start, 10)

    def test_without_root_or_sudo_prints_one_command_and_stops(self):
        (self.folder / "sudo").unlink()
        code, out, err, log = self.run_setup(missing="libcli11-dev libpng-dev")
        self.assertEqual((code, out, log), (1, "", []))
        commands = [line for line in err.splitlines() if "apt-get" in line]
        self.assertEqual(commands, ["  sudo apt-get update && sudo apt-get install -y --no-install-recommends "
                                    "libcli11-dev libpng-dev"])

    def test_does_not_wait_for_a_password_without_a_terminal(self):
        code, _, err, log = self.run_setup(missing="libpng-dev")
        self.assertEqual((code, log), (1, []))
        self.assertIn("libpng-dev", err)

    def test_on_a_terminal_sudo_may_ask(self):
        try:
            master, slave = pty.openpty()
        except OSError as none:
            self.skipTest(none)
        self.addCleanup(os.close, master)
        self.addCleanup(os.close, slave)
        code, _, err, log = self.run_setup(missing="libpng-dev", stdin=slave)
        self.assertEqual(code, 0, err)
        self.assertEqual(log, ["sudo apt-get", "apt-get update -qq", "sudo env",
                               "apt-get install -y --no-install-recommends libpng-dev -qq"])

    def test_with_free_sudo_installs(self):
        code, out, _, log = self.run_setup(missing="ccache", asks_password=0)
        self.assertEqual((code, out), (0, "Installing: ccache\n"))
        self.assertIn("apt-get install -y --no-install-recommends ccache -qq", log)

    def test_as_root_installs_without_sudo(self):
        code, _, _, log = self.run_setup(missing="ccache git", uid=0)
        self.assertEqual(code, 0)
        self.assertEqual(log, ["apt-get update -qq", "apt-get install -y --no-install-recommends ccache git -qq"])

    def test_a_package_that_another_provides_is_not_missing(self):
        self.assertEqual(self.run_setup(missing="libjpeg-dev", provided="libjpeg-dev (= 2.1)"), (0, "", "", []))

    def test_an_unknown_option_changes_nothing(self):
        code, _, err, log = self.run_setup("--lnt", missing="git", uid=0)
        self.assertEqual((code, log), (2, []))
        self.assertIn("--lnt", err)

    def test_elsewhere_says_what_is_needed(self):
        (self.folder / "dpkg-query").unlink()
        code, _, err, log = self.run_setup(uid=0)
        self.assertEqual((code, log), (1, []))
        self.assertIn("no Debian or Ubuntu", err)
        self.assertIn("libicu-dev", err)


if __name__ == "__main__":
    unittest.main()
