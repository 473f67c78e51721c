# SPDX-License-Identifier: Apache-2.0
# bash completion of llmd-maps: nouns, verbs and options; pods and counters by asking llmd-maps itself.

# Names that are in a list now: a field of each line that -j prints.
_llmd_maps_names() { # NOUN FIELD
    "${COMP_WORDS[0]}" "$1" list -j "${_llmd_maps_dir[@]}" 2>/dev/null | sed -n "s/.*\"$2\":\"\([^\"]*\)\".*/\1/p"
}

# Words that are no options, before the one that is being written.
_llmd_maps_words() {
    local i word
    words=()
    _llmd_maps_dir=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        --pin-dir) [ $((i + 1)) -lt "$COMP_CWORD" ] && _llmd_maps_dir=(--pin-dir "${COMP_WORDS[++i]}") ;;
        --limit | --interval | --count | --admin) i=$((i + 1)) ;;
        -*) ;;
        *) words+=("$word") ;;
        esac
    done
}

# Where ':' parts words, bash replaces only what stands behind the last one.
_llmd_maps_trim_colons() {
    local prefix=${1%"${1##*:}"} i
    [[ $1 == *:* && $COMP_WORDBREAKS == *:* ]] || return
    for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]#"$prefix"}; done
}

_llmd_maps_key() { # NOUN VERB CURRENT
    case "$1 $2" in
    "endpoint get" | "endpoint drain" | "endpoint undrain") compgen -W "$(_llmd_maps_names endpoint endpoint)" -- "$3" ;;
    "counter get" | "counter delete") compgen -W "$(_llmd_maps_names counter counter)" -- "$3" ;;
    esac
}

_llmd_maps() {
    local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} line=${COMP_LINE:0:COMP_POINT} words _llmd_maps_dir
    COMPREPLY=()
    case $previous in
    --pin-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur") && return ;;
    --limit | --interval | --count | --admin) return ;;
    esac
    _llmd_maps_words
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "-j --json --pin-dir --hash --limit --interval --count --admin --help --version" -- "$cur")
        return
    fi
    case ${#words[@]} in
    0) mapfile -t COMPREPLY < <(compgen -W "endpoint session prefix flow affinity counter summary" -- "$cur") ;;
    1)
        case ${words[0]} in
        endpoint) mapfile -t COMPREPLY < <(compgen -W "list get watch drain undrain" -- "$cur") ;;
        summary) mapfile -t COMPREPLY < <(compgen -W "show watch" -- "$cur") ;;
        session | prefix | flow | affinity | counter) mapfile -t COMPREPLY < <(compgen -W "list get delete watch" -- "$cur") ;;
        esac
        ;;
    *)
        cur=${line##*[[:space:]]} # whole, colons and all
        mapfile -t COMPREPLY < <(_llmd_maps_key "${words[0]}" "${words[1]}" "$cur")
        _llmd_maps_trim_colons "$cur"
        ;;
    esac
}

complete -F _llmd_maps llmd-maps
