#!/bin/sh
# The first boot of a recovered VM: gives NICs their new names in the guest's network files (configure),
# then says over the report channel what has become of the guest, and removes itself (report).
#
# Needs sh, coreutils and ip; sed for configure. Never blocks the boot, never fails a unit.
# Processes are dear under emulation, so what the shell can do by itself, it does.
# For tests alone: REFLOAT_ROOT prefixes every path.

set -u
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C

ROOT=${REFLOAT_ROOT:-}
ETC=$ROOT/etc/refloat
RUN=$ROOT/run/refloat
NET=$ROOT/sys/class/net
LOG=$ROOT/var/log/refloat-firstboot.log
LAST=$ROOT/var/log/refloat-report.json
BACKUP=$ROOT/var/backups/refloat

# Job, channel and times come from firstboot.conf, the token and the nonce from secrets. Both were
# written by Refloat from values that it had checked.
JOB='' CHANNEL='' DEADLINE=900 NIC_WAIT=15 SETTLE=180
TOKEN='' NONCE=''

# ---------------------------------------------------------------- small things

log() {
    clock
    printf '%s %s\n' "$UPTIME" "$*" >>"$RUN/log"
}

problem() { # what is wrong; every report lists it
    log "problem: $*"
    printf '%s\n' "$*" >>"$RUN/problems"
}

clock() { # seconds since the boot, in UPTIME; whole ones in NOW
    read -r UPTIME _ <"$ROOT/proc/uptime" || UPTIME=0
    NOW=${UPTIME%%.*}
}

before() { # whether it is earlier than second $1
    clock
    [ "$NOW" -lt "$1" ]
}

# A JSON string of $1, in REPLY. Whatever could break the line or the reader's terminal becomes "?".
quote() {
    quote_rest=$1 quote_done='' quote_count=0
    while [ "$quote_count" -lt 200 ]; do
        quote_count=$((quote_count + 1))
        quote_head=${quote_rest%%[!][A-Za-z0-9 ._:/@%+=,()*#~!-]*}
        quote_done=$quote_done$quote_head
        quote_rest=${quote_rest#"$quote_head"}
        [ -n "$quote_rest" ] || break
        quote_tail=${quote_rest#?}
        case ${quote_rest%"$quote_tail"} in
        \\) quote_done=$quote_done'\\' ;;
        *) quote_done=$quote_done'?' ;;
        esac
        quote_rest=$quote_tail
    done
    REPLY="\"$quote_done\""
}

start() {
    mkdir -p "$RUN/outbox"
    [ -r "$ETC/firstboot.conf" ] && . "$ETC/firstboot.conf"
    [ -r "$ETC/secrets" ] && . "$ETC/secrets"
}

# ---------------------------------------------------------------- configure

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
    clock
    wait_end=$((NOW + NIC_WAIT))
    # Names are final only when udev is done: a NIC found earlier may still be called eth0.
    command -v udevadm >/dev/null && udevadm settle --timeout="$NIC_WAIT"
    until all_nics_there; do
        before "$wait_end" || return 0
        sleep 1
    done
}

# The sed script that turns placeholders into names, in NAMING. A NIC that is not there keeps its old name.
name_nics() {
    NAMING=''
    while read -r nic_index nic_mac nic_old; do
        if name_of_mac "$nic_mac"; then
            log "NIC $nic_index ($nic_mac) was $nic_old and is $REPLY"
        else
            problem "no NIC with MAC $nic_mac (it was $nic_old)"
            REPLY=$nic_old
        fi
        [ "$nic_old" = - ] || NAMING="${NAMING}s/@REFLOAT_NIC_$nic_index@/$REPLY/g;"
    done <"$ETC/nics"
}

sum() { # sha256 of a file, in REPLY
    REPLY=$(sha256sum <"$1") && REPLY=${REPLY%% *}
}

# Puts staged file $1 in the place of $2 if that still is what it was at the adaptation (sha256 $3).
install_file() {
    sed "$NAMING" "$ETC/network/$1" >"$RUN/new" || return 1
    cmp -s "$RUN/new" "$ROOT$2" && return 0
    sum "$ROOT$2"
    if [ "$REPLY" != "$3" ]; then
        problem "$2 was changed by someone else: left alone"
        return 0
    fi
    mkdir -p "$BACKUP" && cp -p "$ROOT$2" "$BACKUP/$1" || return 1
    # cp first: the copy has the mode and the owner that the new content is then poured into.
    cp -p "$ROOT$2" "$ROOT$2.refloat-new" && cat "$RUN/new" >"$ROOT$2.refloat-new" || return 1
    sum "$RUN/new"
    log "change: $2 before $3 after $REPLY backup $BACKUP/$1"
    sync "$ROOT$2.refloat-new"
    mv "$ROOT$2.refloat-new" "$ROOT$2"
}

configure() {
    [ -s "$ETC/nics" ] || return 0
    wait_for_nics
    name_nics
    [ -r "$ETC/network/files" ] || return 0
    while read -r file_number file_path file_sum; do
        install_file "$file_number" "$file_path" "$file_sum" || problem "could not write $file_path"
    done <"$ETC/network/files"
}

# ---------------------------------------------------------------- facts

gather_mounts() { # every file system of fstab that should be mounted by now, in MOUNTS; also ROOT_DEVICE
    MOUNTS='' ROOT_DEVICE=''
    mount_of / && ROOT_DEVICE=$REPLY
    while read -r fs_spec fs_where fs_type fs_options _; do
        case $fs_spec in '' | \#*) continue ;; esac
        case $fs_where in /*) ;; *) continue ;; esac
        case ,${fs_options:-}, in *,noauto,*) continue ;; esac
        quote "$fs_where"
        fs_json=$REPLY
        if mount_of "$fs_where"; then
            quote "$REPLY"
            MOUNTS="${MOUNTS:+$MOUNTS,}{\"mountpoint\":$fs_json,\"mounted\":true,\"device\":$REPLY}"
        else
            MOUNTS="${MOUNTS:+$MOUNTS,}{\"mountpoint\":$fs_json,\"mounted\":false,\"device\":\"\"}"
        fi
    done <"$ROOT/etc/fstab"
}

mount_of() { # the device that is mounted on $1, in REPLY
    mount_found=''
    while read -r mount_device mount_where _; do
        [ "$mount_where" = "$1" ] && mount_found=$mount_device
    done <"$ROOT/proc/self/mounts"
    REPLY=$mount_found
    [ -n "$mount_found" ]
}

gather_nics() { # in NICS
    NICS='' ADDRESSES=''
    command -v ip >/dev/null && ADDRESSES=$(ip -o addr show 2>/dev/null)
    for nic_path in "$NET"/*; do
        [ -e "$nic_path/device" ] && read -r nic_mac <"$nic_path/address" || continue
        nic_name=${nic_path##*/} nic_state=down nic_driver=''
        read -r nic_state <"$nic_path/operstate" || nic_state=unknown
        nic_driver=$(cd -P "$nic_path/device/driver" 2>/dev/null && pwd) && nic_driver=${nic_driver##*/}
        [ "$nic_state" = up ] && nic_up=true || nic_up=false
        addresses_of "$nic_name"
        nic_addresses=$REPLY
        quote "$nic_mac" && nic_mac=$REPLY
        quote "$nic_name" && nic_name=$REPLY
        quote "$nic_driver"
        NICS="${NICS:+$NICS,}{\"mac\":$nic_mac,\"name\":$nic_name,\"up\":$nic_up,\"addresses\":[$nic_addresses],\"driver\":$REPLY}"
    done
}

addresses_of() { # the lasting addresses of NIC $1 as JSON, in REPLY; those of its aliases are among them
    addresses_list=''
    while read -r _ address_nic address_family address_value address_rest; do
        [ "${address_nic%%@*}" = "$1" ] || continue
        case $address_family in inet | inet6) ;; *) continue ;; esac
        case " $address_rest " in *' scope link '*) continue ;; esac
        quote "$address_value"
        addresses_list=${addresses_list:+$addresses_list,}$REPLY
    done <<END
$ADDRESSES
END
    REPLY=$addresses_list
}

gather_gateway() { # in GATEWAY and GATEWAY_ANSWERS
    GATEWAY='' GATEWAY_ANSWERS=false
    set -- $(ip -4 route show default 2>/dev/null)
    [ "${1:-}" = default ] && [ "${2:-}" = via ] || return 0
    GATEWAY=$3
    if command -v ping >/dev/null && timeout 4 ping -c 1 -W 2 "$GATEWAY" >/dev/null 2>&1; then
        GATEWAY_ANSWERS=true
        return 0
    fi
    # A gateway may not answer pings; that it answers for its address shows as well that it is there.
    case $(ip neigh show "$GATEWAY" 2>/dev/null) in
    *' lladdr '*FAILED*) ;;
    *' lladdr '*) GATEWAY_ANSWERS=true ;;
    esac
}

gather_dns() { # in DNS
    DNS=''
    [ -r "$ROOT/etc/resolv.conf" ] || return 0
    while read -r dns_key dns_value _; do
        [ "$dns_key" = nameserver ] || continue
        quote "$dns_value"
        DNS=${DNS:+$DNS,}$REPLY
    done <"$ROOT/etc/resolv.conf"
}

gather_drivers() { # virtio drivers that hold a device, in DRIVERS
    DRIVERS=''
    for driver_path in "$ROOT"/sys/bus/virtio/drivers/*; do
        set -- "$driver_path"/virtio[0-9]*
        [ -e "$1" ] || continue
        quote "${driver_path##*/}"
        DRIVERS=${DRIVERS:+$DRIVERS,}$REPLY
    done
}

gather_problems() { # in PROBLEMS
    PROBLEMS=''
    [ -r "$RUN/problems" ] || return 0
    while read -r problem_line; do
        quote "$problem_line"
        PROBLEMS=${PROBLEMS:+$PROBLEMS,}$REPLY
    done <"$RUN/problems"
}

# ---------------------------------------------------------------- reports

# Rises over all boots. Kept by appending, and on the disk before a report goes out: whatever kills
# the machine, no number is given twice. A disk that cannot be written leaves the memory of this boot.
next_sequence() {
    SEQUENCE=0
    for sequence_file in "$ETC/sequence" "$RUN/sequence"; do
        [ -r "$sequence_file" ] || continue
        while read -r sequence_old; do
            case $sequence_old in '' | *[!0-9]*) continue ;; esac
            [ "$sequence_old" -gt "$SEQUENCE" ] && SEQUENCE=$sequence_old
        done <"$sequence_file"
    done
    SEQUENCE=$((SEQUENCE + 1))
    printf '%s\n' "$SEQUENCE" >"$RUN/sequence"
    if [ -d "$ETC" ] && printf '\n%s\n' "$SEQUENCE" 2>/dev/null >>"$ETC/sequence"; then
        sync "$ETC/sequence"
    fi
}

plain() { # KEY JSON: adds a pair to the report
    report="$report,\"$1\":$2"
}

text() { # KEY STRING
    quote "$2"
    plain "$1" "$REPLY"
}

# One report of stage $1 into the outbox; $2 says whether the guest has been cleaned up.
make_report() {
    read -r report_boot <"$ROOT/proc/sys/kernel/random/boot_id"
    read -r report_kernel <"$ROOT/proc/sys/kernel/osrelease"
    gather_mounts
    gather_nics
    gather_gateway
    gather_dns
    gather_drivers
    gather_problems
    next_sequence
    log "report $SEQUENCE ($1)"
    report='"v":1'
    text job "$JOB"
    text boot_id "$report_boot"
    plain seq "$SEQUENCE"
    text stage "$1"
    plain uptime "$UPTIME"
    text root_device "$ROOT_DEVICE"
    text kernel "$report_kernel"
    text system_state "$STATE"
    plain mounts "[$MOUNTS]"
    plain nics "[$NICS]"
    text gateway "$GATEWAY"
    plain gateway_answers "$GATEWAY_ANSWERS"
    plain dns "[$DNS]"
    plain drivers "[$DRIVERS]"
    plain problems "[$PROBLEMS]"
    plain cleaned "$2"
    printf '{%s}\n' "$report" >"$RUN/last"
    # Only what goes out has these two.
    text token "$TOKEN"
    text nonce "$NONCE"
    printf '{%s}\n' "$report" >"$RUN/making"
    mv "$RUN/making" "$RUN/outbox/$SEQUENCE"
}

# Sends what is in the outbox again and again until it was acknowledged: "ack N" stands for all up to N.
# A port can be opened once at a time, and a write waits for a listener: hence one sender, with a limit.
deliver() {
    while before "$DEADLINE"; do
        if [ -e "$CHANNEL" ] && ! outbox_is_empty; then
            timeout 8 sh "$RUN/firstboot.sh" exchange "$CHANNEL"
        fi
        [ -e "$RUN/complete" ] && outbox_is_empty && return 0
        sleep 2
    done
}

outbox_is_empty() {
    for outbox_file in "$RUN"/outbox/*; do
        [ -e "$outbox_file" ] && return 1
    done
    return 0
}

exchange() { # with the host on port $1; runs under timeout
    outbox_is_empty && return 0
    exec 3<>"$1" || return 1
    # An empty line first: it ends whatever an interrupted writing left behind.
    printf '\n' >&3
    for exchange_file in "$RUN"/outbox/*; do
        read -r exchange_line <"$exchange_file" && printf '%s\n' "$exchange_line" >&3
    done
    while read -r exchange_word exchange_number _ <&3; do
        [ "$exchange_word" = ack ] || continue
        case $exchange_number in '' | *[!0-9]* | ???????????*) continue ;; esac
        for exchange_file in "$RUN"/outbox/*; do
            [ -e "$exchange_file" ] && [ "${exchange_file##*/}" -le "$exchange_number" ] && rm -f "$exchange_file"
        done
        outbox_is_empty && return 0
    done
    return 1
}

# Waits until the boot is over, at most SETTLE seconds; the state of the system in STATE.
settle() {
    clock
    settle_end=$((NOW + SETTLE))
    while :; do
        STATE=$(timeout 30 systemctl is-system-running 2>/dev/null)
        STATE=${STATE:-unknown}
        case $STATE in initializing | starting) ;; *) return 0 ;; esac
        before "$settle_end" || return 0
        sleep 2
    done
}

wait_for_gateway() { # a link may need seconds before it passes anything
    for gateway_try in 1 2 3 4; do
        gather_gateway
        [ -z "$GATEWAY" ] || [ "$GATEWAY_ANSWERS" = true ] && return 0
        sleep 2
    done
}

# Nothing that Refloat staged stays, but for the log, the last report and the backups of changed files.
clean_up() {
    log "cleaning up"
    # The rename is the one moment at which it is done: before it a next boot repeats all, after it the
    # units' condition no longer holds.
    rm -rf "$ETC.done"
    mv "$ETC" "$ETC.done" || { problem "could not remove /etc/refloat" && return 1; }
    rm -rf "$ETC.done"
    for clean_target in multi-user emergency rescue; do
        clean_wants=$ROOT/etc/systemd/system/$clean_target.target.wants
        rm -f "$clean_wants/refloat-configure.service" "$clean_wants/refloat-report.service"
    done
    # These two exist in hardly any guest before. Only empty ones go.
    rmdir "$ROOT/etc/systemd/system/emergency.target.wants" "$ROOT/etc/systemd/system/rescue.target.wants" 2>/dev/null
    rm -f "$ROOT/etc/systemd/system/refloat-configure.service" "$ROOT/etc/systemd/system/refloat-report.service"
    sync
    if [ -e "$ETC.done" ] || [ -e "$ROOT/etc/systemd/system/refloat-report.service" ]; then
        problem "not everything that was staged could be removed"
        return 1
    fi
}

keep_log() {
    [ -d "${LOG%/*}" ] || return 0
    cat "$RUN/log" >>"$LOG" 2>/dev/null && : >"$RUN/log"
    [ -r "$RUN/last" ] && cat "$RUN/last" >"$LAST" 2>/dev/null
}

report() {
    # Reports go on after the clean-up has removed this file.
    cp "$ETC/firstboot.sh" "$RUN/firstboot.sh"
    clock
    DEADLINE=$((NOW + DEADLINE))
    STATE=starting
    make_report configured false
    deliver &
    settle
    wait_for_gateway
    case $STATE in
    maintenance)
        # Someone will repair this and boot again: that boot is to report, too.
        make_report final false
        : >"$RUN/complete"
        wait
        before "$DEADLINE" || clean_up
        ;;
    *)
        clean_up && make_report final true || make_report final false
        : >"$RUN/complete"
        keep_log
        wait
        ;;
    esac
    keep_log
}

start
case ${1:-} in
configure) configure ;;
report) report ;;
exchange) exchange "$2" ;;
esac
exit 0
