# Puts the live names of the adapters into the guest's network files. Read by firstboot.sh.

# The name that the kernel and udev gave to the NIC with MAC $1, in REPLY; empty if there is none.
name_of_mac() {
    REPLY=''
    for name_path in "$NET"/*; do
        # Bridges, bonds and VLANs repeat the MAC of a NIC; only a NIC has a device.
        [ -e "$name_path/device" ] && read -r name_mac <"$name_path/address" || continue
        if [ "$name_mac" = "$1" ]; then
            REPLY=${name_path##*/}
            return 0
        fi
    done
    return 1
}

all_nics_there() {
    while read -r _ nics_mac _; do
        name_of_mac "$nics_mac" || return 1
    done <"$ETC/nics"
}

wait_for_nics() {
    seconds
    wait_end=$((REPLY + NIC_WAIT))
    # Names are final only when udev is done: a NIC found earlier may still be called eth0.
    command -v udevadm >/dev/null && udevadm settle --timeout="$NIC_WAIT"
    while ! all_nics_there; do
        seconds
        [ "$REPLY" -lt "$wait_end" ] || return 0
        sleep 1
    done
}

# The sed script that turns placeholders into names, in naming_script. A NIC that is not there keeps the
# name that it had; where it had none, its placeholder stays, and with it the file is not written.
naming() {
    naming_script=''
    while read -r naming_index naming_mac naming_old naming_pin; do
        if name_of_mac "$naming_mac"; then
            log "NIC $naming_index ($naming_mac) was $naming_old and is $REPLY"
            [ "${naming_pin:--}" = - ] || [ "$naming_pin" = "$REPLY" ] ||
                problem "$naming_mac is called $REPLY, but its configuration is that of $naming_pin"
        else
            problem "no NIC with MAC $naming_mac (it was $naming_old)"
            REPLY=$naming_old
        fi
        case $REPLY in - | *[/\&\\]*) continue ;; esac
        naming_script="${naming_script}s/@REFLOAT_NIC_$naming_index@/$REPLY/g;"
    done <"$ETC/nics"
}

sum() { # sha256 of file $1, in REPLY; "-" where there is none
    REPLY=-
    [ -e "$1" ] || return 0
    REPLY=$(sha256sum <"$1") && REPLY=${REPLY%% *}
}

# Puts staged file $1 in the place of $3, under the name $4, if $3 still is what it was at the adaptation
# (sha256 $2). "-": for $2 and $3, a new file, of mode NEW_MODE; for $4, $3 goes away.
install_file() {
    install_new=$(printf '%s\n' "$4" | sed "$naming_script")
    case $install_new in *@REFLOAT_NIC_*) return 0 ;; esac
    sed "$naming_script" "$ETC/network/$1" >"$RUN/new" || return 1
    grep -q '@REFLOAT_NIC_' "$RUN/new" && return 0
    if is_installed "$3" "$install_new"; then
        return 0
    fi
    sum "$ROOT$3"
    if [ "$REPLY" != "$2" ]; then
        problem "$3 was changed by someone else: left alone"
        return 0
    fi
    if [ "$3" != "$install_new" ] && [ -e "$ROOT$install_new" ] && ! cmp -s "$RUN/new" "$ROOT$install_new"; then
        problem "there is already a $install_new: $3 is left alone"
        return 0
    fi
    if [ "$3" != - ]; then
        mkdir -p "$BACKUP" && cp -p "$ROOT$3" "$BACKUP/$1" || return 1
    fi
    if [ "$install_new" != - ] && ! cmp -s "$RUN/new" "$ROOT$install_new"; then
        write_new "$3" "$install_new" || return 1
    fi
    if [ "$3" != "$install_new" ] && [ "$3" != - ]; then
        rm -f "$ROOT$3" && changed "$2" - "$3"
    fi
}

is_installed() { # whether $2 has the new content and $1, if it had another name, is gone: after a power cut
    [ "$1" = - ] || [ "$1" = "$2" ] || [ ! -e "$ROOT$1" ] || return 1
    [ "$2" = - ] || cmp -s "$RUN/new" "$ROOT$2"
}

# The new content as $2, with the mode and the owner of $1 ("-": of a new file).
write_new() {
    write_path=$ROOT$2
    write_temporary=${write_path%/*}/.${write_path##*/}.refloat-new
    sum "$write_path"
    write_before=$REPLY
    rm -f "$write_temporary"
    if [ "$1" = - ]; then
        : >"$write_temporary" && chmod "$NEW_MODE" "$write_temporary" || return 1
    else
        # cp first: the copy has the mode and the owner that the new content is then poured into.
        cp -p "$ROOT$1" "$write_temporary" || return 1
    fi
    cat "$RUN/new" >"$write_temporary" || return 1
    sum "$RUN/new"
    flush "$write_temporary"
    mv "$write_temporary" "$write_path" || return 1
    command -v restorecon >/dev/null && restorecon "$write_path" 2>/dev/null
    changed "$write_before" "$REPLY" "$2"
}

changed() { # sha256 before, sha256 after, path: kept for the reports
    log "change: $3 before $1 after $2"
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$ETC/changes"
}

# Most stacks read their files after this. netplan has made its own from the old ones already, in a
# generator that ran before any service.
make_live() {
    case $STACK in *netplan*) ;; *) return 0 ;; esac
    command -v netplan >/dev/null || return 0
    timeout 30 netplan generate || problem 'netplan could not read the new files'
    timeout 30 systemctl daemon-reload || problem 'systemd could not take over the new files'
    # netplan's own rules for names are read when an adapter is added.
    timeout 10 udevadm trigger --action=add --subsystem-match=net && udevadm settle --timeout=10
}

configure() {
    [ -s "$ETC/nics" ] || return 0
    wait_for_nics
    naming
    [ -r "$ETC/network/files" ] || return 0
    while IFS=$TAB read -r file_number NEW_MODE file_sum file_old file_new; do
        install_file "$file_number" "$file_sum" "$file_old" "$file_new" ||
            problem "could not write $file_old"
    done <"$ETC/network/files"
    [ -s "$ETC/changes" ] && make_live
}
