# SPDX-License-Identifier: Apache-2.0
# bash completion of llmd-events: commands, kinds, fields and options.

_llmd_events() {
    local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words=() i
    COMPREPLY=()
    case $previous in
    --redis-password-file | --redis-ca-file | --redis-cert-file | --redis-key-file | --session-secret-file)
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        return
        ;;
    --redis | --session-ttl | --prefix-block | --redis-stream-max | --from | --count) return ;;
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "-j --json --redis --redis-password-file --redis-ca-file --redis-cert-file --redis-key-file
            --session-secret-file --session-ttl --prefix-block --redis-stream-max --from --count --help --version" -- "$cur")
        return
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -j | --json) ;;
        -*) i=$((i + 1)) ;;
        *) words+=("${COMP_WORDS[i]}") ;;
        esac
    done
    case "${#words[@]} ${words[0]}" in
    "0 "*) mapfile -t COMPREPLY < <(compgen -W "tail inject snapshot" -- "$cur") ;;
    "1 inject") mapfile -t COMPREPLY < <(compgen -W "bind unbind stored removed cleared load drain" -- "$cur") ;;
    *" inject")
        mapfile -t COMPREPLY < <(compgen -W "session= hash= pod= hashes= depth= tokens= on= agent= load= every=" -- "$cur")
        compopt -o nospace
        ;;
    esac
}

complete -F _llmd_events llmd-events
