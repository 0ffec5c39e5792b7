# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is shipped beside the program: documents, manual pages, schemas, completion."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import jsonschema
import pexpect
import pytest

from sanlock_helper.cli.main import make_parser
from sanlock_helper.cli.verbs import VERBS
from sanlock_helper.invocation import HELP

TOP = Path(__file__).parents[2]
PAGES = sorted((TOP / "packaging/man").glob("*.rst"))
DOCUMENTS = [*sorted(TOP.glob("*.md")), *sorted((TOP / "docs").glob("*.md"))]
DOCUMENTS.remove(TOP / "CHANGELOG.md")
SCHEMAS = sorted((TOP / "packaging/schema").glob("*.json"))


def sub_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
    return found


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def section(page: str, verb: str) -> str:
    """The part of the PAGE that describes VERB."""
    match = re.search(rf"^{verb}\n-+\n(.*?)(?=^\S+\n(?:-+|=+)$)", page, re.MULTILINE | re.DOTALL)
    assert match, f"no section {verb}"
    return match[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_manual_page_builds_without_a_warning(page: Path, tmp_path: Path) -> None:
    target = tmp_path / page.stem
    command = [sys.executable, "-m", "docutils", "--writer=manpage", "--strict", str(page), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    name, number = page.stem.rsplit(".", 1)
    # docutils before 0.20 has the number bare, later ones in quotes.
    assert re.search(
        rf'^\.TH "?{name.upper()}"? "?{number}"? ', target.read_text(), re.MULTILINE | re.IGNORECASE
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb_is_in_the_page(verb: str) -> None:
    page = (TOP / "packaging/man/virt-sanlock-helper.8.rst").read_text()
    parser = sub_parsers(make_parser())[verb]
    wanted = options(parser.format_help())
    for kind in sub_parsers(parser).values():
        wanted |= options(kind.format_help())
    # These two are named once, for all verbs.
    assert {"-h", "--help"} <= options(page)
    assert wanted - {"-h", "--help"} <= options(section(page, verb))
    assert f"virt-sanlock-helper {verb}" in page


def test_every_option_of_the_killpath_is_in_its_page() -> None:
    page = (TOP / "packaging/man/libvirt_sanlock_helper.8.rst").read_text()
    assert {"--budget", "--help"} <= options(HELP) <= options(page)


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_schema_is_valid_and_names_itself(path: Path) -> None:
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == schema["properties"]["schema"]["const"]
    assert re.fullmatch(rf"urn:virt-sanlock-helper:{path.stem}:\d+", schema["$id"])


def prose(text: str) -> str:
    """TEXT of a document without its blocks, which show commands and what they print."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^(?: {4}|\t).*$", "", text, flags=re.MULTILINE)


def test_what_the_documents_make_can_be_made() -> None:
    targets = re.findall(r"^([a-z0-9]+(?: [a-z0-9]+)*):", (TOP / "Makefile").read_text(), re.MULTILINE)
    known = {name for target in targets for name in target.split()}
    made: set[str] = set()
    for path in DOCUMENTS:
        command = r"(?:^ {4}|`)(?:REQUIRE=1 )?make((?: [a-z0-9]+)+)"
        for words in re.findall(command, path.read_text(), re.MULTILINE):
            made |= set(words.split())
    assert {"deps", "demo", "test", "bench", "install", "rpm"} <= made <= known
    # For developers each is listed once.
    listed = re.findall(r"^    make (\w+)", (TOP / "docs/testing.md").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed)) > 5


def test_the_first_screen_is_short_and_has_no_measured_times() -> None:
    readme = (TOP / "README.md").read_text()
    assert len(readme.splitlines()) <= 120
    assert not re.findall(r"\d+\.\d+ (?:s|ms|MiB)\b", readme)


def anchors(path: Path) -> set[str]:
    """The anchors of the headings of a document, as the common hosts of repositories make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+://", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(found), f"{path.name}: {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_file_that_a_document_names_is_there(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"(?<![\w/.-])((?:helper|auth|tests|packaging|docs|\.ci)/[\w./-]*\w)", text)
    named += re.findall(r"(?<![\w/.-])([\w-]+\.(?:py|rst|toml|yaml))\b", text)
    for name in named:
        assert (TOP / name).exists() or list(TOP.glob(f"[!.]*/**/{name}")), f"{path.name}: {name}"


def test_each_document_is_linked_from_the_first_one() -> None:
    readme = TOP / "README.md"
    linked = {(TOP / name).resolve() for name in re.findall(r"\]\(([^)#\s]+)", readme.read_text())}
    assert set(DOCUMENTS) - {readme} <= linked


# See CONTRIBUTING.md, Words.
WORDS = re.compile(
    r"\b(?:tell|tells|telling|told|say|says|saying|said|look|looks|looked|looking"
    r"|somebody|nobody|anybody|whoever|someone)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("path", [*DOCUMENTS, *PAGES, TOP / "CHANGELOG.md"], ids=lambda path: path.name)
def test_the_rule_of_words_is_kept(path: Path) -> None:
    text = path.read_text()
    if path.name == "CONTRIBUTING.md":
        # There it is given.
        text = text.replace(text[text.index("| not | but |") : text.index("A journal line is read at")], "")
    found = [line for line in prose(text).splitlines() if WORDS.search(line)]
    assert found == []


# A name of the spool's on-disk format, and the verb of virDomainLookupByUUID().
TERMS = re.compile(r"\.telling|\b(?:look|looks|looked) (?:\w+ ){0,2}up\b", re.IGNORECASE)
SOURCES = sorted(path for folder in ("helper", "auth") for path in (TOP / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_sources_keep_the_rule_of_words(path: Path) -> None:
    with path.open("rb") as file:
        text = "\n".join(token.string for token in tokenize.tokenize(file.readline))
    found = [line for line in TERMS.sub("", text).splitlines() if WORDS.search(line)]
    assert found == []


@pytest.mark.parametrize("path", sorted((TOP / "packaging/schema").iterdir()), ids=lambda path: path.name)
def test_descriptions_of_schemas_keep_the_rule_of_words(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if WORDS.search(line)]
    assert found == []


COMPLETE = """
source {script}
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_virt_sanlock_helper
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def complete(folder: Path, *words: str) -> set[str]:
    """What bash would offer for the last of WORDS, with a virsh that knows three domains, another URI one."""
    virsh = folder / "virsh"
    virsh.write_text(
        '#!/bin/sh\ncase "$*" in *test://*) echo elsewhere ;; *) printf "vm1\\nvm2\\nwith blank\\n" ;; esac\n'
    )
    virsh.chmod(0o755)
    script = COMPLETE.format(script=TOP / "packaging/completion/virt-sanlock-helper.bash")
    answer = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", str(TOP / "helper/virt-sanlock-helper"), *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
    )
    assert answer.stderr == ""
    return set(answer.stdout.splitlines()) - {""}


DOMAINS = {"vm1", "vm2", "with\\ blank"}

# The words that were typed, the last one to be completed, and what is offered.
COMPLETIONS: list[tuple[tuple[str, ...], set[str]]] = [
    (("",), set(VERBS)),
    (("sta",), {"status"}),
    (("run", "p"), {"poweroff", "pause"}),
    (("run", "pause", ""), DOMAINS),
    (("run", "pause", "vm1", ""), set()),
    (("run", "--yes", "pause", "w"), {"with\\ blank"}),
    (("run", "pause", "with\\ b"), {"with\\ blank"}),
    (("run", "pause", "'with b"), {"with blank"}),
    (("run", "-c", "test:///default", "pause", ""), {"elsewhere"}),
    (("run", "--connect=test:///default", "pause", ""), {"elsewhere"}),
    (("run", "-c", "test:///default", ""), {"poweroff", "restart", "pause", "ignore"}),
    (("run", "--d"), {"--dry-run"}),
    (("status", ""), DOMAINS),
    (("status", "vm1", "vm"), {"vm1", "vm2"}),
    (("status", "--json", "--journal", "/dev/null", "vm"), {"vm1", "vm2"}),
    (("status", "--name", "vm"), {"vm1", "vm2"}),
    (("status", "--state", "p"), {"paused", "pmsuspended"}),
    (("status", "--format", ""), {"text", "json", "openmetrics"}),
    (("status", "--format", "=", "o"), {"openmetrics"}),
    (("policy", ""), DOMAINS),
    (("policy", "vm1", ""), DOMAINS),
    (("policy", "--priority", ""), set()),
    (("policy", "--delay", "5", "vm"), {"vm1", "vm2"}),
    (("history", "--domain", "vm"), {"vm1", "vm2"}),
    (("history", "--domain", "=", "vm"), {"vm1", "vm2"}),
    (("history", "--since", ""), set()),
    (("history", ""), set()),
    (("recover", "--forget", "vm"), {"vm1", "vm2"}),
    (("recover", "--resume-anyway", "vm"), {"vm1", "vm2"}),
    (("recover", ""), set()),
    (("recover", "--yes", ""), set()),
    (("auth", ""), {"check", "test"}),
    (("auth", "check", ""), set()),
    (("drill", ""), {"pause", "poweroff"}),
    (("drill", "--yes", "po"), {"poweroff"}),
    (("drill", "pause", ""), set()),
    (("drill", "--directory", "/us"), {"/usr"}),
    (("check", ""), set()),
    (("check", "--connect", ""), set()),
    (("activate", ""), set()),
    (("install-check", ""), set()),
]


@pytest.mark.parametrize(("words", "offered"), COMPLETIONS, ids=lambda value: " ".join(sorted(value)))
def test_completion_in_bash(words: tuple[str, ...], offered: set[str], tmp_path: Path) -> None:
    assert complete(tmp_path, *words) == offered


def test_completion_in_bash_has_each_option(tmp_path: Path) -> None:
    for verb, parser in sub_parsers(make_parser()).items():
        assert options(parser.format_usage()) <= complete(tmp_path, verb, "-") | {"-"}


def test_completion_in_zsh(tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not here")
    (tmp_path / "virsh").write_text("#!/bin/sh\necho some-domain\n")
    (tmp_path / "virsh").chmod(0o755)
    path = f"{tmp_path}:{TOP}/helper:{os.environ['PATH']}"
    environ = {"PATH": path, "TERM": "dumb", "HOME": str(tmp_path)}
    shell = pexpect.spawn("zsh", ["-f", "-i"], env=environ, encoding="utf-8", timeout=20)
    shell.sendline(f"fpath=({TOP}/packaging/completion $fpath)")
    shell.sendline("autoload -Uz compinit; compinit -D; echo ok")
    shell.expect("\r\nok")
    for typed, completed in (
        ("sta", "status"),
        ("run pa", "run pause"),
        ("run pause so", "run pause some-domain"),
        ("run --dr", "run --dry-run"),
        ("run -c test:///default pause so", "run -c test:///default pause some-domain"),
        ("history --domain so", "history --domain some-domain"),
        ("recover --forget=so", "recover --forget=some-domain"),
        ("status --format op", "status --format openmetrics"),
    ):
        shell.send(f"virt-sanlock-helper {typed}\t")
        shell.expect_exact(completed.removeprefix(typed))
        shell.sendcontrol("u")
    # No domain where none is wanted: the word stays as it was typed.
    for typed in ("recover so", "history so", "run pause x so"):
        shell.send(f"virt-sanlock-helper {typed}\t#end")
        shell.expect_exact("#end")
        assert "some-domain" not in str(shell.before)
        shell.sendcontrol("u")
    shell.close(force=True)
