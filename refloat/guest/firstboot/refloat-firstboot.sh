#!/bin/sh
# The first boot of a recovered VM: gives NICs their new names in the guest's network files (configure),
# then says over the report channel what has become of the guest, and removes itself (report).
#
# Needs a POSIX sh, ip, and coreutils or BusyBox. Never blocks the boot, never fails a service.
# Beside it lie network.sh (configure), facts.sh (what is reported) and callback.sh (reports by HTTPS). Processes are dear under
# emulation, so what the shell can do by itself, it does.
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
JOB='' CHANNEL='' CALLBACK='' DEADLINE=900 NIC_WAIT=15 SETTLE=180 INIT='' STACK=''
TOKEN='' NONCE=''
TAB='	'

# ---------------------------------------------------------------- small things

log() {
    printf '%s %s\n' "$(uptime_now)" "$*" >>"$RUN/log"
}

problem() { # what is wrong; every report lists it
    log "problem: $*"
    printf '%s\n' "$*" >>"$RUN/problems"
}

uptime_now() {
    read -r uptime_value _ <"$ROOT/proc/uptime" || uptime_value=0
    printf '%s' "$uptime_value"
}

seconds() { # whole seconds since the boot, in REPLY
    read -r REPLY _ <"$ROOT/proc/uptime" || REPLY=0
    REPLY=${REPLY%%.*}
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

append() { # LIST-VARIABLE JSON: adds an element to a JSON list without its brackets
    eval "append_old=\$$1"
    if [ -n "$append_old" ]; then
        eval "$1=\$append_old,\$2"
    else
        eval "$1=\$2"
    fi
}

start() {
    mkdir -p "$RUN/outbox"
    [ -r "$ETC/firstboot.conf" ] && . "$ETC/firstboot.conf"
    [ -r "$ETC/secrets" ] && . "$ETC/secrets"
    . "${0%/*}/network.sh"
    . "${0%/*}/facts.sh"
}

flush() { # file $1 is on the disk; an old sync knows no files
    sync "$1" 2>/dev/null || sync
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
        flush "$ETC/sequence"
    fi
}

# One report of stage $1 into the outbox; $2 says whether the guest has been cleaned up.
make_report() {
    read -r report_boot <"$ROOT/proc/sys/kernel/random/boot_id"
    read -r report_kernel <"$ROOT/proc/sys/kernel/osrelease"
    gather_mounts
    gather_nics
    gather_gateways
    gather_dns
    gather_drivers
    gather_problems
    gather_changes
    next_sequence
    quote "$JOB" && report="\"job\":$REPLY"
    quote "$report_boot" && report="$report,\"boot_id\":$REPLY,\"seq\":$SEQUENCE,\"stage\":\"$1\""
    report="$report,\"uptime\":$(uptime_now)"
    report_clock=$(date +%s 2>/dev/null)
    case $report_clock in '' | *[!0-9]*) ;; *) report="$report,\"clock\":$report_clock" ;; esac
    quote "$ROOT_DEVICE" && report="$report,\"root_device\":$REPLY"
    quote "$report_kernel" && report="$report,\"kernel\":$REPLY"
    quote "$STATE" && report="$report,\"system_state\":$REPLY,\"mounts\":[$MOUNTS],\"nics\":[$NICS],\"links\":[$LINKS]"
    quote "$GATEWAY" && report="$report,\"gateway\":$REPLY,\"gateway_answers\":$GATEWAY_ANSWERS"
    quote "$GATEWAY6" && report="$report,\"gateway6\":$REPLY,\"gateway6_answers\":$GATEWAY6_ANSWERS"
    report="$report,\"dns\":[$DNS],\"search\":[$SEARCH],\"changes\":[$CHANGES],\"drivers\":[$DRIVERS],\"problems\":[$PROBLEMS],\"cleaned\":$2}"
    log "report $SEQUENCE ($1)"
    printf '{"v":1,%s\n' "$report" >"$RUN/last"
    quote "$TOKEN" && report_token=$REPLY
    quote "$NONCE"
    printf '{"v":1,"token":%s,"nonce":%s,%s\n' "$report_token" "$REPLY" "$report" >"$RUN/making"
    mv "$RUN/making" "$RUN/outbox/$SEQUENCE"
}

# Sends what is in the outbox again and again until it was acknowledged: "ack N" stands for all up to N.
# A port can be opened once at a time, and a write waits for a listener: hence one sender, with a limit.
deliver() {
    while :; do
        seconds
        [ "$REPLY" -lt "$DEADLINE" ] || return 0
        if ! outbox_is_empty && find_channel; then
            timeout 8 sh "$RUN/firstboot.sh" exchange "$REPLY"
        fi
        [ -e "$RUN/complete" ] && outbox_is_empty && return 0
        sleep 2
    done
}

find_channel() { # the report channel's device, in REPLY; the name in /dev is made by udev, not by mdev
    REPLY=$CHANNEL
    [ -e "$REPLY" ] && return 0
    for channel_file in "$ROOT"/sys/class/virtio-ports/*/name; do
        [ -r "$channel_file" ] && read -r channel_name <"$channel_file" || continue
        if [ "$channel_name" = "${CHANNEL##*/}" ]; then
            REPLY=${channel_file%/name}
            REPLY=$ROOT/dev/${REPLY##*/}
            [ -e "$REPLY" ] && return 0
        fi
    done
    return 1
}

# The same by HTTPS, where the hub has an address for it. Beside the other way: neither waits for the other.
deliver_by_callback() {
    while :; do
        seconds
        [ "$REPLY" -lt "$DEADLINE" ] || return 0
        outbox_is_empty || timeout 60 sh "$RUN/firstboot.sh" callback "$CALLBACK"
        [ -e "$RUN/complete" ] && outbox_is_empty && return 0
        sleep 3
    done
}

acknowledged() { # up to number $1
    case $1 in '' | *[!0-9]* | ???????????*) return 1 ;; esac
    for acknowledged_file in "$RUN"/outbox/*; do
        [ -e "$acknowledged_file" ] && [ "${acknowledged_file##*/}" -le "$1" ] && rm -f "$acknowledged_file"
    done
    return 0
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
        [ "$exchange_word" = ack ] && acknowledged "$exchange_number" && outbox_is_empty && return 0
    done
    return 1
}

# Waits until the boot is over, at most SETTLE seconds; the state of the system in STATE.
settle() {
    seconds
    settle_end=$((REPLY + SETTLE))
    while :; do
        gather_state
        [ "$STATE" = starting ] || return 0
        seconds
        [ "$REPLY" -lt "$settle_end" ] || return 0
        sleep 2
    done
}

wait_for_gateway() { # a link may need seconds before it passes anything
    for gateway_try in 1 2 3 4; do
        gather_gateways
        case $GATEWAY:$GATEWAY_ANSWERS/$GATEWAY6:$GATEWAY6_ANSWERS in
        *[!:/]:false* | *[!:/]:false) ;;
        *) return 0 ;;
        esac
        sleep 2
    done
}

# Nothing that Refloat staged stays, but for the log, the last report and the backups of changed files.
clean_up() {
    log "cleaning up"
    # The rename is the one moment at which it is done: before it a next boot repeats all, after it the
    # services have nothing that they would run.
    rm -rf "$ETC.done"
    mv "$ETC" "$ETC.done" || { problem "could not remove /etc/refloat" && return 1; }
    rm -f "$ETC.done/secrets"
    clean_left=''
    while read -r clean_path; do
        case $clean_path in
        */.depend.*)
            # insserv's list of the services: ours was added as words of their own.
            sed '/^refloat-firstboot:/d; s/ refloat-firstboot//g' "$ROOT$clean_path" >"$RUN/new" &&
                cat "$RUN/new" >"$ROOT$clean_path"
            ;;
        */) rmdir "$ROOT$clean_path" 2>/dev/null ;; # only where nothing else is in it
        *) rm -f "$ROOT$clean_path" || clean_left=$clean_path ;;
        esac
    done <"$ETC.done/staged"
    rm -rf "$ETC.done"
    sync
    if [ -n "$clean_left" ] || [ -e "$ETC.done" ]; then
        problem "not everything that was staged could be removed: $clean_left"
        return 1
    fi
}

keep_log() {
    [ -d "${LOG%/*}" ] || return 0
    cat "$RUN/log" >>"$LOG" 2>/dev/null && : >"$RUN/log"
    [ -r "$RUN/last" ] && cat "$RUN/last" >"$LAST" 2>/dev/null
}

report() {
    # Reports go on after the clean-up has removed these files.
    cp "$ETC/firstboot.sh" "$ETC/network.sh" "$ETC/facts.sh" "$RUN"
    cp "$ETC/callback.sh" "$ETC/callback.pem" "$RUN" 2>/dev/null # where there is such a way
    [ -r "$ETC/changes" ] && cp "$ETC/changes" "$RUN/changes"
    seconds
    DEADLINE=$((REPLY + DEADLINE))
    STATE=starting
    make_report configured false
    deliver &
    [ -n "$CALLBACK" ] && deliver_by_callback &
    settle
    wait_for_gateway
    case $STATE in
    maintenance)
        # Someone will repair this and boot again: that boot is to report, too.
        make_report final false
        : >"$RUN/complete"
        wait
        seconds
        [ "$REPLY" -lt "$DEADLINE" ] || clean_up
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
callback) . "${0%/*}/callback.sh" && callback "$2" ;;
esac
exit 0
