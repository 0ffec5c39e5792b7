# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every verb through a pseudo-terminal of 40 to 200 columns: no line is longer; and as another user.

On libvirt's embedded test driver, whose domains have odd names.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from sanlock_helper.cli.text_width import cells
from sanlock_helper.cli.verbs import VERBS

COMMAND = str(Path(__file__).parents[2] / "helper/virt-sanlock-helper")
UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

NAMES = (
    "vm1",
    "a name with blanks",
    "日本語の仮想マシン",
    "e\u0301" * 30,
    "x" * 120,
    "vm[1]",
    "-c",
    "a; rm b",
    "%s$(x)`y`",
)

WIDTHS = [40, 80, 100, 200]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A connection with a domain of each name."""
    path = tmp_path_factory.mktemp("node") / "node.xml"
    domain = "<domain type='test'><name>{}</name><memory>8192</memory><os><type>hvm</type></os></domain>"
    path.write_text(f"<node>{''.join(map(domain.format, NAMES))}</node>", encoding="utf-8")
    return f"test://{path}"


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An exported journal with an outage of each name."""
    path = tmp_path_factory.mktemp("journal") / "journal.json"
    lines = [("sanlock", "2026-11-22 20:30:23 2912 [5]: s1 check_our_lease failed 8")]
    lines += [
        (
            "virt-sanlock-helper",
            f"poweroff {name} {UUID[:-3]}{number:03}: FAILED after 35.00 s: {'a reason ' * 20}",
        )
        for number, name in enumerate(NAMES)
    ]
    with path.open("w") as file:
        for number, (identifier, message) in enumerate(lines):
            stamp = str(int((time.time() - 60 + number) * 1e6))
            entry = {
                "__REALTIME_TIMESTAMP": stamp,
                "SYSLOG_IDENTIFIER": identifier,
                "MESSAGE": message,
                "_UID": "0",
            }
            file.write(json.dumps(entry) + "\n")
    return str(path)


def at_terminal(columns: int, *arguments: str, **environ: str) -> list[str]:
    """The lines that ARGUMENTS give at a terminal that is so many COLUMNS wide, without colours."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    env.update({"TERM": "xterm", "LC_ALL": "C.UTF-8", **environ})
    process = subprocess.Popen([COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    output = b""
    try:
        while data := os.read(ours, 65536):
            output += data
    except OSError:
        pass  # the program has ended
    finally:
        os.close(ours)
        process.wait(30)
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output.decode().replace("\r\n", "\n"))
    return text.splitlines()


def verbs(uri: str, journal: str) -> dict[str, list[str]]:
    """A command line of each kind of output."""
    return {
        "check": ["check", "-c", uri],
        "check --quiet": ["check", "-c", uri, "--quiet"],
        "check --explain": ["check", "--explain", "lockspace"],
        "no such check": ["check", "--explain", "no such check"],
        "status": ["status", "-c", uri, "--journal", journal],
        "history": ["history", "--journal", journal],
        "run": ["run", "-c", uri, "--dry-run", "pause", "a name with blanks"],
        "run, a long name": ["run", "-c", uri, "--dry-run", "pause", "x" * 120],
        "auth check": ["auth", "check", uri],
        "auth test": ["auth", "test", uri],
        "policy": ["policy", "-c", uri, "x" * 120],
        "install-check": ["install-check"],
        "no such verb": ["chekc"],
        "no such domain": ["status", "-c", uri, "y" * 120],
        "no connection": ["status", "-c", f"nonsense:///{'no/' * 40}"],
    }


KINDS = list(verbs("", ""))


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_line_is_longer_than_the_terminal(kind: str, columns: int, uri: str, journal: str) -> None:
    lines = at_terminal(columns, *verbs(uri, journal)[kind])
    assert lines
    assert [line for line in lines if cells(line) > columns] == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_a_narrow_terminal(verb: str) -> None:
    lines = at_terminal(40, verb, "--help")
    assert lines[0].startswith("usage: ")
    assert [line for line in lines if cells(line) > 40] == []


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_has_no_colours(verb: str) -> None:
    """Python 3.14's argparse has its own, and by this variable in a pipe as well."""
    command = [COMMAND, *filter(None, [verb]), "--help"]
    environ = {**os.environ, "TERM": "xterm", "FORCE_COLOR": "1"}
    text = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
    assert text.startswith("usage: virt-sanlock-helper")
    assert "\x1b" not in text


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_result_is_the_last_line_of_check(columns: int, uri: str) -> None:
    lines = at_terminal(columns, "check", "-c", uri)
    assert lines[-1].strip().endswith("READY") or "NOT KNOWN" in lines[-1]
    if columns >= 80:
        assert re.match(r"\d+ failed, \d+ warnings?, \d+ passed: (?:NOT READY|READY|NOT KNOWN)", lines[-1])


@pytest.mark.parametrize("value", [None, "", "0", "-1", "wide", "1e3", "99999999999999999999"])
def test_a_terminal_without_a_width_has_80(value: str | None, uri: str) -> None:
    environ = {} if value is None else {"COLUMNS": value}
    lines = at_terminal(0, "check", "-c", uri, **environ)
    assert 40 < max(map(cells, lines)) <= 80
    assert max(map(cells, at_terminal(0, "check", "-c", uri, COLUMNS="60"))) <= 60
    # What the terminal reports counts for more: COLUMNS may be that of another one.
    assert max(map(cells, at_terminal(40, "check", "-c", uri, COLUMNS="200"))) <= 40


def test_no_line_is_broken_in_a_pipe(uri: str, journal: str) -> None:
    for kind, number in (("status", len(NAMES) + 1), ("history", len(NAMES) + 1)):
        result = subprocess.run(
            [COMMAND, *verbs(uri, journal)[kind]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "40", "LC_ALL": "C.UTF-8"},
        )
        assert len(result.stdout.splitlines()) == number
        assert max(map(len, result.stdout.splitlines())) > 120


def test_the_call_can_be_pasted(uri: str) -> None:
    for columns in (40, 80):
        lines = at_terminal(columns, "run", "-c", uri, "--dry-run", "pause", "%s$(x)`y`")
        begin = next(number for number, line in enumerate(lines) if line.startswith("call:"))
        script = "\n".join([lines[begin].removeprefix("call:"), *lines[begin + 1 :]])
        script = f"show() {{ printf '%s\\n' \"$@\"; }}\nshow {script.strip()}"
        shown = subprocess.run(
            ["sh", "-c", script], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        assert shown[1] == uri
        assert re.fullmatch(r"[0-9a-f-]{36}", shown[2])
        assert shown[3:] == ["pause"]


OFF = "<domain type='test'><name>off</name><memory>8192</memory><os><type>hvm</type></os></domain>"


@pytest.mark.parametrize("action", ["pause", "poweroff"])
def test_what_is_off_is_reported_as_off(action: str, tmp_path: Path) -> None:
    node = tmp_path / "node.xml"
    text = OFF.replace("<domain ", "<domain xmlns:test='http://libvirt.org/schemas/domain/test/1.0' ")
    text = text.replace("</domain>", "<test:runstate>5</test:runstate></domain>")
    node.write_text(f"<node>{text}</node>")
    result = run("run", "-c", f"test://{node}", "--dry-run", action, "off")
    assert result.returncode == 0
    assert re.search(r"^state: +shut off$", result.stdout, re.MULTILINE)
    assert re.search(r"^will: +do nothing: it is off", result.stdout, re.MULTILINE)
    assert ("cannot be paused" in result.stdout) is (action == "pause")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["chekc"], "did you mean check?"),
        (["Status"], "did you mean status?"),
        (["install_check"], "did you mean install-check?"),
        (["hist"], "did you mean history?"),
        (["run", "puase", "x"], "did you mean pause?"),
        (["run", "power-off", "x"], "did you mean poweroff?"),
        (["auth", "chek"], "did you mean check?"),
        (["status", "--sate", "running"], "did you mean --state?"),
        (["check", "--strct"], "did you mean --strict?"),
        (["status", "--state", "runing"], "did you mean running?"),
        (["check", "--format", "jsn"], "did you mean json?"),
        (["--json", "status"], "virt-sanlock-helper status --json"),
        (["-c", "test:///default", "status"], "virt-sanlock-helper status -c test:///default)"),
        (["--name", "a b", "status", "vm1"], "virt-sanlock-helper status --name 'a b' vm1)"),
        (["--connect=test:///default", "run", "pause", "x"], "options of run stand behind it"),
    ],
    ids=" ".join,
)
def test_what_was_meant(arguments: list[str], meant: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert meant in result.stderr


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--name", "vm1"], ["vm1"]),
        (["--name", "vm*"], ["vm1", "vm[1]"]),
        (["--name", "vm[1]"], ["vm1", "vm[1]"]),
        (["--name", "vm1", "--name", "日*"], ["vm1", "日本語の仮想マシン"]),
        (["--name", "none"], []),
        (["--state", "running", "--name", "vm1"], ["vm1"]),
        (["--state", "shutoff"], []),
        (["--state", "shut off", "--state", "RUNNING", "--name", "-c"], ["-c"]),
        (["--state", "paused"], []),
        (["vm1", "a; rm b", "--name", "a*"], ["a; rm b"]),
    ],
    ids=" ".join,
)
def test_status_of_some_domains(options: list[str], shown: list[str], uri: str, journal: str) -> None:
    # An option's value that begins with "-" is written with "=".
    words = [f"--name={options[-1]}" if options[-2:] == ["--name", "-c"] else None]
    options = [*options[:-2], words[0]] if words[0] else options
    result = run("status", "-c", uri, "--journal", journal, "--json", *options)
    assert result.returncode == 0, result.stderr
    assert sorted(row["name"] for row in json.loads(result.stdout)["domains"]) == sorted(shown)


@pytest.mark.parametrize("verb", ["check", "status"])
def test_openmetrics_is_read_by_its_own_parser(verb: str, uri: str) -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client.openmetrics import parser

    result = run(verb, "-c", uri, "--format", "openmetrics")
    families = {family.name: family for family in parser.text_string_to_metric_families(result.stdout)}  # type: ignore[no-untyped-call]
    assert result.stdout.endswith("\n# EOF\n")
    if verb == "check":
        document = json.loads(run("check", "-c", uri, "--json").stdout)
        failed = families["virt_sanlock_helper_check_failed"].samples
        assert {sample.labels["check"]: sample.value for sample in failed} == {
            check["name"]: float(check["verdict"] == "fail") for check in document["checks"]
        }
        assert families["virt_sanlock_helper_ready"].samples[0].value == float(document["ok"])
        return
    lost = families["virt_sanlock_helper_domain_leases_lost"].samples
    assert {sample.labels["domain"] for sample in lost} == set(NAMES)
    assert sum(sample.value for sample in families["virt_sanlock_helper_domains"].samples) == len(NAMES)


def test_formats_are_one_or_the_other(uri: str) -> None:
    wrong = run("check", "--json", "--format", "text")
    assert (wrong.returncode, "not allowed with argument" in wrong.stderr) == (2, True)
    watch = run("status", "-c", uri, "--watch", "--format", "openmetrics")
    assert (watch.returncode, "--watch: a textfile has one document" in watch.stderr) == (2, True)
    words = ("status", "-c", "test:///default")
    assert run(*words, "--format", "json").stdout == run(*words, "--json").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_as_another_user_nothing_fails_falsely(tmp_path: Path) -> None:
    top = Path(COMMAND).parents[1]
    place = tmp_path / "program"
    place.mkdir()
    for folder in ("helper", "auth"):
        subprocess.run(["cp", "-r", str(top / folder), str(place)], check=True)
    for path in (place, *(each for each in place.parents if each.stat().st_mode & 0o077 == 0)):
        path.chmod(path.stat().st_mode | 0o011)
    command = [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        str(place / "helper/virt-sanlock-helper"), "check", "-c", "test:///default",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert re.match(r"0 failed, .*: NOT KNOWN, \d+ not checked$", result.stdout.splitlines()[-1])
    document = json.loads(
        subprocess.run([*command, "--json"], capture_output=True, text=True, check=False).stdout
    )
    assert {check["verdict"] for check in document["checks"]} == {"pass", "warn"}
    assert document["ok"] is False
