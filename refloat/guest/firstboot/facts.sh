# What has become of the guest: each function leaves JSON in a variable. Read by firstboot.sh.

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
            append MOUNTS "{\"mountpoint\":$fs_json,\"mounted\":true,\"device\":$REPLY}"
        else
            append MOUNTS "{\"mountpoint\":$fs_json,\"mounted\":false,\"device\":\"\"}"
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

gather_nics() { # adapters in NICS; bridges, bonds, VLANs and the like that hold an address in LINKS
    NICS='' LINKS='' ADDRESSES='' link_count=0
    command -v ip >/dev/null && ADDRESSES=$(ip -o addr show 2>/dev/null)
    for nic_path in "$NET"/*; do
        [ -e "$nic_path/address" ] || continue
        nic_name=${nic_path##*/} nic_mac='' nic_state=unknown
        read -r nic_mac <"$nic_path/address"
        read -r nic_state <"$nic_path/operstate" || nic_state=unknown
        [ "$nic_state" = up ] && nic_up=true || nic_up=false
        addresses_of "$nic_name"
        nic_addresses=$REPLY
        quote "$nic_name"
        if [ -e "$nic_path/device" ]; then
            gather_nic "$REPLY"
        elif [ -n "$nic_addresses" ] && [ "$nic_name" != lo ] && [ "$link_count" -lt 32 ]; then
            link_count=$((link_count + 1))
            append LINKS "{\"name\":$REPLY,\"up\":$nic_up,\"addresses\":[$nic_addresses]}"
        fi
    done
}

gather_nic() { # the adapter that gather_nics is at; $1 is its name as JSON
    nic_driver=$(cd -P "$nic_path/device/driver" 2>/dev/null && pwd) || nic_driver=''
    quote "$nic_mac" && nic_mac=$REPLY
    quote "${nic_driver##*/}"
    append NICS "{\"mac\":$nic_mac,\"name\":$1,\"up\":$nic_up,\"addresses\":[$nic_addresses],\"driver\":$REPLY}"
}

addresses_of() { # the lasting addresses of interface $1 as JSON, in REPLY; those of its aliases are among them
    addresses_list=''
    while read -r _ address_nic address_family address_value address_rest; do
        [ "${address_nic%%@*}" = "$1" ] || continue
        case $address_family in inet | inet6) ;; *) continue ;; esac
        case " $address_rest " in *' scope link '*) continue ;; esac
        quote "$address_value"
        append addresses_list "$REPLY"
    done <<END
$ADDRESSES
END
    REPLY=$addresses_list
}

gather_gateways() { # in GATEWAY, GATEWAY_ANSWERS, and the same of IPv6 with a 6
    gather_gateway 4
    GATEWAY=$REPLY GATEWAY_ANSWERS=$gateway_answers
    gather_gateway 6
    GATEWAY6=$REPLY GATEWAY6_ANSWERS=$gateway_answers
}

gather_gateway() { # of IP version $1, in REPLY and gateway_answers
    gateway_found='' gateway_answers=false
    command -v ip >/dev/null || return 0
    while read -r gateway_to gateway_via gateway_address gateway_rest; do
        [ "$gateway_to $gateway_via" = 'default via' ] || continue
        gateway_found=$gateway_address gateway_nic=''
        case $gateway_rest in 'dev '*) gateway_nic=${gateway_rest#dev } gateway_nic=${gateway_nic%% *} ;; esac
        answers "$1" "$gateway_address" "$gateway_nic" && gateway_answers=true && break
    done <<END
$(ip "-$1" route show 2>/dev/null)
END
    REPLY=$gateway_found
}

answers() { # whether the neighbour with address $2 (IP version $1, on interface $3) is there
    answers_to=$2
    case $2 in fe80:*) answers_to=$2%$3 ;; esac
    if [ "$1" = 4 ] && command -v ping >/dev/null; then
        timeout 4 ping -c 1 -W 2 "$answers_to" >/dev/null 2>&1 && return 0
    elif [ "$1" = 6 ]; then
        timeout 4 ping -6 -c 1 -W 2 "$answers_to" >/dev/null 2>&1 && return 0
        # Long ago it was a program of its own.
        command -v ping6 >/dev/null && timeout 4 ping6 -c 1 -W 2 "$answers_to" >/dev/null 2>&1 && return 0
    elif [ -n "$3" ] && command -v arping >/dev/null; then
        timeout 4 arping -c 1 -w 2 -I "$3" "$2" >/dev/null 2>&1 && return 0
    fi
    # It may not answer pings; that it answers for its address shows as well that it is there.
    [ "$1" = 6 ] || in_arp_table "$2" && return 0
    case $(ip "-$1" neigh show "$2" 2>/dev/null) in
    *' lladdr '*FAILED*) return 1 ;;
    *' lladdr '*) return 0 ;;
    esac
    return 1
}

in_arp_table() { # whether $1 has answered for its address: 0x2 and 0x6 are complete entries
    [ -r "$ROOT/proc/net/arp" ] || return 1
    while read -r arp_address _ arp_flags _; do
        [ "$arp_address" = "$1" ] || continue
        case $arp_flags in 0x2 | 0x6) return 0 ;; esac
    done <"$ROOT/proc/net/arp"
    return 1
}

gather_dns() { # in DNS and SEARCH
    DNS='' SEARCH=''
    gather_resolver "$ROOT/etc/resolv.conf"
    # systemd-resolved answers by itself and keeps the servers that it asks elsewhere.
    case $DNS in '"127.0.0.53"') DNS='' SEARCH='' && gather_resolver "$ROOT/run/systemd/resolve/resolv.conf" ;; esac
}

gather_resolver() {
    [ -r "$1" ] || return 0
    while read -r dns_key dns_value; do
        case $dns_key in
        nameserver)
            quote "${dns_value%%[ 	]*}"
            append DNS "$REPLY"
            ;;
        search | domain)
            SEARCH='' dns_rest="$dns_value "
            while [ -n "$dns_rest" ]; do
                quote "${dns_rest%% *}"
                [ "$REPLY" = '""' ] || append SEARCH "$REPLY"
                dns_rest=${dns_rest#* }
            done
            ;;
        esac
    done <"$1"
}

gather_drivers() { # virtio drivers that hold a device, in DRIVERS
    DRIVERS=''
    for driver_path in "$ROOT"/sys/bus/virtio/drivers/*; do
        set -- "$driver_path"/virtio[0-9]*
        [ -e "$1" ] || continue
        quote "${driver_path##*/}"
        append DRIVERS "$REPLY"
    done
}

gather_problems() { # in PROBLEMS
    PROBLEMS=''
    [ -r "$RUN/problems" ] || return 0
    while read -r problem_line; do
        quote "$problem_line"
        append PROBLEMS "$REPLY"
    done <"$RUN/problems"
}

gather_changes() { # files that the first boot changed, in CHANGES
    CHANGES=''
    [ -r "$RUN/changes" ] || return 0
    while IFS=$TAB read -r change_before change_after change_path; do
        [ "$change_before" = - ] && change_before=''
        [ "$change_after" = - ] && change_after=''
        quote "$change_path"
        append CHANGES "{\"path\":$REPLY,\"before\":\"$change_before\",\"after\":\"$change_after\"}"
    done <"$RUN/changes"
}

gather_state() { # what the init system says of the boot, in STATE: "starting" until it is over
    STATE=unknown
    case $INIT in
    systemd)
        STATE=$(timeout 30 systemctl is-system-running 2>/dev/null)
        case ${STATE:-unknown} in
        initializing) STATE=starting ;;
        '') STATE=unknown ;;
        esac
        ;;
    openrc)
        STATE=starting openrc_level=''
        [ -r "$ROOT/run/openrc/softlevel" ] && read -r openrc_level <"$ROOT/run/openrc/softlevel"
        case $openrc_level in '' | sysinit | boot | shutdown) return 0 ;; esac
        [ -e "$ROOT/run/openrc/rc.starting" ] && return 0
        STATE=running
        for openrc_failed in "$ROOT"/run/openrc/failed/*; do
            [ -e "$openrc_failed" ] || [ -L "$openrc_failed" ] && STATE=degraded
        done
        ;;
    sysvinit)
        STATE=starting
        case $(runlevel 2>/dev/null) in *' '[2-5]) STATE=running ;; esac
        ;;
    esac
}
