# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `make matrix` rests on: the archives that it keeps, and the settings that it passes on."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.preconditions import need, need_programs
from tests.matrix import debian, settings
from tests.matrix.cache import Cache, default_folder, digest
from tests.matrix.root import Root

KEY = "0123456789abcdef"
OTHER = "fedcba9876543210"


class Making:
    """Makes a folder, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "file").write_text("content")
        (folder / "link").symlink_to("/nowhere")
        (folder / "bin").mkdir()
        (folder / "bin/program").touch(0o755)


@pytest.fixture
def making() -> Making:
    need_programs("tar", "zstd")
    return Making()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache/below"


def unpack(folder: Path, making: Making, target: Path, key: str = KEY) -> list[str]:
    """Have the folder; returns what was logged."""
    lines: list[str] = []
    shutil.rmtree(target, ignore_errors=True)
    Cache(folder, lines.append).unpack("root", key, making, target)
    assert (target / "file").read_text() == "content"
    assert os.readlink(target / "link") == "/nowhere"
    assert (target / "bin/program").stat().st_mode & 0o777 == 0o755
    return lines


def test_it_is_made_once(folder: Path, making: Making, tmp_path: Path) -> None:
    assert "making it" in unpack(folder, making, tmp_path / "a")[0]
    assert unpack(folder, making, tmp_path / "b") == []
    assert making.times == 1
    assert [path.name for path in folder.iterdir()] == [f"root-{KEY}.tar.zst"]


def test_another_key_takes_the_place_of_the_last(folder: Path, making: Making, tmp_path: Path) -> None:
    unpack(folder, making, tmp_path / "a")
    (folder / f"root-modular-{KEY}.tar.zst").touch()
    unpack(folder, making, tmp_path / "a", OTHER)
    assert making.times == 2
    assert {path.name for path in folder.iterdir()} == {
        f"root-{OTHER}.tar.zst",
        f"root-modular-{KEY}.tar.zst",
    }


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "changed", "folder", "not an archive"])
def test_a_damaged_one_is_made_again(folder: Path, making: Making, tmp_path: Path, damage: str) -> None:
    unpack(folder, making, tmp_path / "a")
    archive = folder / f"root-{KEY}.tar.zst"
    data = archive.read_bytes()
    if damage == "folder":
        archive.unlink()
        archive.mkdir()
    elif damage == "not an archive":
        packed = subprocess.run(["zstd", "-q"], input=b"text", capture_output=True, check=True).stdout
        archive.write_bytes(packed)
    else:
        half = len(data) // 2
        changed = data[:half] + bytes([data[half] ^ 0xFF]) + data[half + 1 :]
        archive.write_bytes(
            {"truncated": data[:half], "empty": b"", "garbage": b"\xff" * 999, "changed": changed}[damage]
        )
    lines = unpack(folder, making, tmp_path / "a")
    assert "does not unpack" in lines[0]
    assert making.times == 2
    # And serves from now on.
    assert unpack(folder, making, tmp_path / "a") == []


def test_where_none_can_be_kept_it_is_made_each_time(making: Making, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        lines = unpack(tmp_path / "file/below", making, tmp_path / "a")
        assert "is not kept" in lines[-1]
    assert making.times == 2


def test_a_making_that_fails_leaves_no_archive(folder: Path, tmp_path: Path) -> None:
    def fails(made: Path) -> None:
        (made / "half").touch()
        raise RuntimeError("no archive answers")

    with pytest.raises(RuntimeError, match="no archive answers"):
        Cache(folder).unpack("root", KEY, fails, tmp_path / "a")
    assert not folder.exists()


def test_the_key_is_of_names_contents_and_order() -> None:
    keys = {digest(parts) for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"c", b"ab"], [])}
    assert len(keys) == 5
    assert digest([b"ab", b"c"]) == digest([b"ab", b"c"])


@pytest.mark.parametrize(
    ("home", "expected"), [("/x", "/x"), ("", "~/.cache"), ("relative", "~/.cache"), (None, "~/.cache")]
)
def test_where_archives_are_kept(home: str | None, expected: str) -> None:
    environment = {} if home is None else {"XDG_CACHE_HOME": home}
    assert default_folder(environment) == Path(expected).expanduser() / "virt-sanlock-helper"


def test_a_change_of_the_dependencies_is_another_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(debian.inputs())
    for name in debian.INPUTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(debian.CHECKOUT / name, tmp_path / name)
    monkeypatch.setattr(debian, "CHECKOUT", tmp_path)
    assert digest(debian.inputs()) == before
    with (tmp_path / "packaging/dependencies").open("a") as file:
        file.write("# another package\n")
    assert digest(debian.inputs()) != before


STATUS = """\
Package: libvirt0
Status: install ok installed
Maintainer: A B <a@b.example>
Architecture: amd64
Source: libvirt ({source})
Version: {version}
Description: a library

Package: strace
Status: install ok installed
Maintainer: A B <a@b.example>
Architecture: amd64
Version: {strace}
Description: a program
"""


def test_the_modular_daemons_are_of_the_roots_libvirt_alone(tmp_path: Path) -> None:
    """They are built again for another libvirt, and for no other package."""
    need_programs("dpkg-query")

    def key(source: str, version: str, strace: str) -> str:
        (tmp_path / "var/lib/dpkg").mkdir(parents=True, exist_ok=True)
        (tmp_path / "var/lib/dpkg/status").write_text(
            STATUS.format(source=source, version=version, strace=strace)
        )
        return digest(debian.modular_inputs(tmp_path))

    before = key("11.3.0-3", "11.3.0-3+b1", "6.1")
    assert key("11.3.0-3", "11.3.0-3+b2", "6.2") == before
    assert key("11.3.0-4", "11.3.0-4", "6.1") != before
    (tmp_path / "var/lib/dpkg/status").write_text("")
    with pytest.raises(subprocess.CalledProcessError):
        debian.modular_inputs(tmp_path)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("http://a/debian/\nhttp://a/debian-security/\n", "http://a/debian/"),
        ("https://sdk.example/apt\nftp://m/x/debian\n", "ftp://m/x/debian"),
        ("file:/srv/mirror/debian//\n", "file:/srv/mirror/debian//"),
    ],
)
def test_the_archive_is_apts(targets: str, expected: str) -> None:
    assert settings.archive(targets) == expected


@pytest.mark.parametrize("targets", ["", "http://a/debian-security/\n", "http://a/ubuntu\n"])
def test_without_an_archive_that_is_reported(targets: str) -> None:
    with pytest.raises(settings.MissingArchive, match="no archive"):
        settings.archive(targets)


def test_this_machines_archive_is_found() -> None:
    need_programs("apt-get")
    assert "/debian" in settings.archive()


def test_pips_settings_come_through(tmp_path: Path) -> None:
    """Real pip reads what was written of what it listed, with all the forms that its files have."""
    conf = tmp_path / "outside.conf"
    conf.write_text(
        "[global]\nextra-index-url = file:///a/simple\n    file:///b/simple\ncert = /etc/it's.pem\n"
        "timeout = 7\n[install]\nno-compile = yes\n"
    )
    again = tmp_path / "inside.conf"
    listed = pip_list(conf)
    assert settings.pip_settings(listed)["install"] == {"no-compile": "yes"}
    again.write_text(settings.pip_conf(settings.pip_settings(listed)))
    assert effective(pip_list(again)) == effective(listed)
    parser = configparser.RawConfigParser()
    parser.read(again)
    assert parser["global"]["extra-index-url"].split() == ["file:///a/simple", "file:///b/simple"]


def effective(listed: str) -> dict[str, str]:
    """The line that counts of each option: newer versions of pip list those of all files."""
    return {line.partition("=")[0]: line for line in listed.splitlines()}


def test_of_several_files_the_last_one_counts() -> None:
    listed = "global.timeout='1'\nglobal.cert='/a'\nglobal.timeout='7'\n"
    assert settings.pip_settings(listed) == {"global": {"timeout": "7", "cert": "/a"}}


def pip_list(conf: Path) -> str:
    """What pip prints of this one file."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    # It is read last; what the machine's own files set is there each time, and the variable itself is listed.
    env = {**clean, "PIP_CONFIG_FILE": str(conf)}
    lines = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    return lines.replace(str(conf), "CONF")


def test_what_settings_name_is_found(tmp_path: Path) -> None:
    for name in ("index/simple", "wheels", "certs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "certs/ca.pem").touch()
    values = [
        f"file://{tmp_path}/index/simple",
        f"\n{tmp_path}/wheels\n{tmp_path}/missing",
        f"{tmp_path}/certs/ca.pem",
        f"{tmp_path}/certs",
        "https://host/simple /",
        "60",
    ]
    assert settings.paths(values) == [tmp_path / "certs", tmp_path / "index", tmp_path / "wheels"]


def test_only_what_serves_package_clients_is_passed() -> None:
    outside = {
        **{
            name: "x"
            for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "https_proxy", "NO_PROXY")
        },
        **{name: "y" for name in ("PATH", "HOME", "SSL_KEY", "PYTHONPATH", "SECRET_TOKEN", "PIPX_HOME")},
    }
    assert set(settings.environment(outside).values()) == {"x"}
    assert len(settings.environment(outside)) == 5


@pytest.fixture
def small_root(tmp_path: Path) -> Root:
    """A root with this machine's programs, and nothing else of its own."""
    need(() if os.geteuid() == 0 else ("root",), "it mounts")
    need_programs("unshare", "setpriv")
    made = tmp_path / "root"
    made.mkdir()
    for name in ("usr", "bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (made / name).symlink_to(os.readlink(f"/{name}"))
    return Root(made)


def test_a_command_in_a_root(small_root: Root, tmp_path: Path) -> None:
    script = (
        "set -e; echo x >/etc/file; echo x >/run/file; echo x >/tmp/file\n"
        "test -c /dev/null; test -d /sys/kernel\n"
        # Every process there is is of the root's own.
        "test $(ls /proc | grep -c '^[0-9]*$') -lt 6; test ! -e /home; test ! -w /usr\n"
        # And a process that enters gets this root, not the machine's.
        "nsenter --target=1 --mount sh -c 'test ! -e /home'; sleep 1000 & exit 7"
    )
    assert small_root.run("sh", "-c", script, binds=[Path("/usr")]) == 7
    assert (small_root.folder / "etc/file").read_text() == "x\n"
    assert list((small_root.folder / "run").iterdir()) == list((small_root.folder / "tmp").iterdir()) == []
    assert not any(str(tmp_path) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
    with pytest.raises(subprocess.CalledProcessError):
        small_root.must("false", binds=[Path("/usr")])
    assert small_root.run("no-such-program", binds=[Path("/usr")]) == 127


def test_nothing_in_a_root_outlives_its_owner(small_root: Root) -> None:
    code = "import sys; from pathlib import Path; from tests.matrix.root import Root\n"
    code += "Root(Path(sys.argv[1])).run('sh', '-c', 'echo up; sleep 60', binds=[Path('/usr')])"
    command = [sys.executable, "-c", code, str(small_root.folder)]
    with subprocess.Popen(command, cwd=debian.CHECKOUT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        start = time.monotonic()
        owner.kill()
        # The end of the pipe is the end of the processes that could write to it.
        assert owner.stdout.read() == ""
        assert time.monotonic() - start < 30


def test_not_root_is_one_error() -> None:
    need(() if os.geteuid() == 0 else ("root",), "setuid(2) needs it")
    # As root until it is loaded: another user may not reach the checkout.
    program = "import os, sys; from tests.matrix import __main__; os.setuid(65534); sys.exit(__main__.main())"
    command = [sys.executable, "-c", program, "true"]
    # That user cannot write the data of a run under coverage.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    result = subprocess.run(
        command, cwd=debian.CHECKOUT, env=environ, capture_output=True, text=True, check=False
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert "sudo" in result.stderr
