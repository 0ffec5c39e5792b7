# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion of virt-sanlock-helper: verbs, options, their values, and domain names where a domain is wanted.
#
# Verbs and options come from --help, so that they are those of the installed version; names come from virsh,
# read-only, which asks for no password.

# _virt_sanlock_helper_names URI WORD: the names of domains that begin with WORD, as it was typed.
_virt_sanlock_helper_names() {
    local IFS=$'\n' name uri=$1 typed=$2 quote=""
    case $typed in
        [\'\"]*) quote=1 typed=${typed:1} ;;
        *) typed=${typed//\\/} ;;
    esac
    for name in $(virsh -q -r ${uri:+-c "$uri"} list --all --name 2>/dev/null); do
        [[ $name == "$typed"* ]] || continue
        # Behind a quotation mark bash inserts the name as it is, and closes the mark.
        if [[ $quote ]]; then COMPREPLY+=("$name"); else COMPREPLY+=("$(printf %q "$name")"); fi
    done
}

# What --help of the verbs given lists: options, and at the start of a line verbs.
_virt_sanlock_helper_words() {
    "${COMP_WORDS[0]}" "$@" --help 2>/dev/null
}

# _virt_sanlock_helper_one_of WORD VALUE...: those of the values that begin with WORD.
_virt_sanlock_helper_one_of() {
    local typed=${1//\\/} value
    shift
    for value; do
        [[ $value == "$typed"* ]] && COMPREPLY+=("$(printf %q "$value")")
    done
}

# _virt_sanlock_helper_value OPTION WORD: the values of an option; false for one that has none.
_virt_sanlock_helper_value() {
    case $1 in
        --domain | --forget | --resume-anyway | --name) _virt_sanlock_helper_names "$uri" "$2" ;;
        --journal) mapfile -t COMPREPLY < <(compgen -f -- "$2") ;;
        --directory) mapfile -t COMPREPLY < <(compgen -d -- "$2") ;;
        --format) _virt_sanlock_helper_one_of "$2" text json openmetrics ;;
        --state) _virt_sanlock_helper_one_of "$2" running paused 'shut off' 'in shutdown' crashed pmsuspended ;;
        --connect | -c | --since | --explain | --priority | --delay) ;;
        *) return 1 ;;
    esac
}

_virt_sanlock_helper() {
    local word=${COMP_WORDS[COMP_CWORD]} verb="" uri="" option="" position=0 index each
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        each=${COMP_WORDS[index]}
        if [[ $each == "=" && $option ]]; then
            :
        elif [[ $option ]]; then
            [[ $option == -c || $option == --connect ]] && uri=$each
            option=""
        else
            case $each in
                -c | --connect | --since | --priority | --delay | --domain | --journal | --forget | --resume-anyway) option=$each ;;
                --format | --state | --name | --explain | --directory) option=$each ;;
                --*=*) [[ $each == --connect=* ]] && uri=${each#*=} ;;
                -*) ;;
                *) if [[ -z $verb ]]; then verb=$each; else ((position++)); fi ;;
            esac
        fi
    done
    [[ $word == "=" ]] && word=""
    if [[ $option ]]; then
        _virt_sanlock_helper_value "$option" "$word"
    elif [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_virt_sanlock_helper_words ${verb:+"$verb"} | grep -oE -- '--?[a-z][a-z-]*')" -- "$word")
    elif [[ -z $verb ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_virt_sanlock_helper_words | sed -nE 's/^    ([a-z][a-z-]+)( .*)?$/\1/p')" -- "$word")
    else
        case $verb:$position in
            auth:0) _virt_sanlock_helper_one_of "$word" check test ;;
            drill:0) _virt_sanlock_helper_one_of "$word" pause poweroff ;;
            run:0) _virt_sanlock_helper_one_of "$word" poweroff restart pause ignore ;;
            run:1 | policy:* | status:*) _virt_sanlock_helper_names "$uri" "$word" ;;
        esac
    fi
}

complete -F _virt_sanlock_helper virt-sanlock-helper
