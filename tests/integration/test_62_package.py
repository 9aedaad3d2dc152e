# SPDX-License-Identifier: PostgreSQL
"""Units and Debian package as they are in the tree; tests/package.sh builds, installs, upgrades and
purges the package in a clean root."""
import configparser
import os
import re
import shutil
import subprocess

import pytest

from proxy import program

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONF = os.path.join(SOURCE, "conf")
UNITS = ["pgshuntd.service", "pgshuntd.socket", "pgshuntd-metrics.socket"]


def unit(name):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(os.path.join(CONF, name))
    return parser


def test_units():
    service = unit("pgshuntd.service")["Service"]
    assert service["Type"] == "notify" and int(service["WatchdogSec"]) > 0
    assert unit("pgshuntd.socket")["Socket"]["FileDescriptorName"] == "postgres"
    # The name by which the program knows it.
    web = unit("pgshuntd-metrics.socket")["Socket"]
    with open(os.path.join(SOURCE, "proxy", "core", "listen.h")) as text:
        assert '#define LISTEN_WEB_NAME "%s"' % web["FileDescriptorName"] in text.read()
    assert web["Service"] == "pgshuntd.service"


@pytest.mark.parametrize("name", UNITS)
def test_systemds_judgement(name, tmp_path):
    """By systemd itself where it is installed; otherwise that sections and settings can be read."""
    for other in UNITS:
        with open(os.path.join(CONF, other)) as text:
            # No programs are installed and no manual pages: only the unit is judged.
            (tmp_path / other).write_text(re.sub(
                r"(?m)^Documentation=.*\n", "", text.read()).replace(
                    "=pgshuntd ", "=/bin/true ").replace("=kill ", "=/bin/kill "))
    assert set(unit(name).sections()) <= {"Unit", "Service", "Socket", "Install"}
    if shutil.which("systemd-analyze"):
        result = subprocess.run(["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
                                capture_output=True, text=True, timeout=60)
        complaints = [line for line in result.stderr.split("\n") if "pgshuntd" in line]
        assert not complaints, result.stderr
        if name.endswith(".service"):
            result = subprocess.run(["systemd-analyze", "security", "--offline=true",
                                     "--threshold=20", str(tmp_path / name)], capture_output=True,
                                    text=True, timeout=60)
            assert result.returncode == 0, result.stdout[-500:]


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts(name):
    path = os.path.join(CONF, "debian", name)
    assert os.access(path, os.X_OK)
    subprocess.run(["sh", "-n", path], check=True)
    with open(path) as text:
        script = text.read()
    assert script.startswith("#!/bin/sh\n") and "\nset -e\n" in script
    assert all(unit in script for unit in UNITS) or name == "postinst"


def test_configuration_of_the_package(tmp_path):
    """With the files as the package has them, the program starts."""
    for name in ("pgshunt.yml", "userlist.txt"):
        shutil.copy(os.path.join(CONF, "debian", name), tmp_path)
    path = tmp_path / "pgshunt.yml"
    path.write_text(path.read_text().replace("proxy:\n", "proxy:\n  users_file: userlist.txt\n"))
    result = subprocess.run([program("pgshuntd"), "--check-config", "--config", str(path)],
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_package(tmp_path):
    """What goes into it, installed from the programs that are there."""
    build = tmp_path / "build"
    result = subprocess.run(
        ["cmake", "-S", SOURCE, "-B", str(build), "-DPGSHUNT_TESTS=OFF", "-DPGSHUNT_PACKAGE=ON",
         "-DCMAKE_INSTALL_PREFIX=/usr"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("pgshunt", "pgshuntd"):
        shutil.copy(program(name), build)
    docs = build / "docs"
    for name, args in (("pgshunt.1", ["pgshunt", "--man"]), ("pgshuntd.8", ["pgshuntd", "--man"]),
                       ("pgshunt.bash", ["pgshunt", "--completion"])):
        with open(docs / name, "w") as out:
            subprocess.run([program(args[0]), *args[1:]], stdout=out, check=True)
        if name[-1].isdigit():
            subprocess.run(["gzip", "-9nk", str(docs / name)], check=True)
    subprocess.run(["gzip", "-9n", str(docs / "changelog")], check=True)
    root = tmp_path / "root"
    subprocess.run(["cmake", "--install", str(build), "--prefix", "/usr"], check=True,
                   env={**os.environ, "DESTDIR": str(root)}, capture_output=True)
    have = {os.path.relpath(os.path.join(folder, file), root)
            for folder, _, files in os.walk(root) for file in files}
    assert have >= {"usr/sbin/pgshuntd", "usr/bin/pgshunt", "etc/pgshunt/pgshunt.yml",
                    "etc/pgshunt/userlist.txt", "usr/share/man/man1/pgshunt.1.gz",
                    "usr/share/man/man8/pgshuntd.8.gz", "usr/share/doc/pgshunt/copyright",
                    "usr/share/doc/pgshunt/changelog.gz",
                    "usr/share/doc/pgshunt/examples/pgshunt.dashboard.json",
                    "usr/share/bash-completion/completions/pgshunt",
                    *("usr/lib/systemd/system/" + name for name in UNITS)}
    assert os.path.isdir(root / "etc/pgshunt/secrets")
    conffiles = (docs / "conffiles").read_text().split()
    assert {path[1:] for path in conffiles} == {path for path in have if path.startswith("etc/")}
    for path in have:
        mode = os.stat(root / path).st_mode & 0o777
        assert mode == (0o640 if path.startswith("etc/") else
                        0o755 if path.startswith(("usr/bin", "usr/sbin")) else 0o644), path
