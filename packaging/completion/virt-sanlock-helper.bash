# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion of virt-sanlock-helper: verbs, options and domain names.
#
# Verbs and options come from --help, so that they are those of the installed version; names come from virsh,
# read-only, which asks for no password.

_virt_sanlock_helper_names() {
    local IFS=$'\n' name
    for name in $(virsh -q -r list --all --name 2>/dev/null); do
        [[ $name == "$1"* ]] && COMPREPLY+=("$(printf %q "$name")")
    done
}

_virt_sanlock_helper_words() {
    # The words that --help of the verbs given lists: options, and at the start of a line verbs.
    "${COMP_WORDS[0]}" "$@" --help 2>/dev/null
}

_virt_sanlock_helper() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} verb="" position=0 index
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        case ${COMP_WORDS[index]} in
            -*) ;;
            *) if [[ -z $verb ]]; then verb=${COMP_WORDS[index]}; else ((position++)); fi ;;
        esac
    done
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_virt_sanlock_helper_words ${verb:+"$verb"} | grep -oE -- '--?[a-z][a-z-]*')" -- "$word")
    elif [[ -z $verb ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_virt_sanlock_helper_words | sed -nE 's/^    ([a-z][a-z-]+)( .*)?$/\1/p')" -- "$word")
    elif [[ $previous == --journal ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    elif [[ $previous == --connect || $previous == -c || $previous == --since ]]; then
        :
    elif [[ $verb == auth ]]; then
        ((position == 0)) && mapfile -t COMPREPLY < <(compgen -W "check test" -- "$word")
    elif [[ $verb == run && $position == 0 ]]; then
        mapfile -t COMPREPLY < <(compgen -W "poweroff restart pause ignore" -- "$word")
    elif [[ $verb != check ]]; then
        _virt_sanlock_helper_names "$word"
    fi
}

complete -F _virt_sanlock_helper virt-sanlock-helper
