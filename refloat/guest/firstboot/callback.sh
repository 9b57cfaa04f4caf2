# shellcheck shell=sh
# Reports by HTTPS, with whatever the guest has that can check the hub's certificate: callback.pem is the one
# that is trusted, and nothing else is. A program that cannot check is not used: a report has the job's token.
# Part of firstboot.sh, which is run under a time limit. The report is in no program's arguments.

PEM=$RUN/callback.pem
SENDERS='curl wget python3 python2 python openssl plain'

# A Python of any age since 2.7.9. No proxy of the environment: the hub is near.
PYTHON='
import ssl, sys
try:
    import urllib.request as web
except ImportError:
    import urllib2 as web
url, certificate, report = sys.argv[1:4]
handlers = [web.ProxyHandler({})]
if url.startswith("https:"):
    handlers.append(web.HTTPSHandler(context=ssl.create_default_context(cafile=certificate)))
request = web.Request(url, open(report, "rb").read(), {"Content-Type": "application/json"})
sys.stdout.write(web.build_opener(*handlers).open(request, timeout=15).read(64).decode("ascii", "replace"))
'

callback() { # sends all that is in the outbox to $1
    callback_url=$1
    for callback_file in "$RUN"/outbox/*; do
        [ -e "$callback_file" ] || continue
        for callback_sender in $SENDERS; do
            can_send "$callback_sender" || continue
            if send "$callback_sender" "$callback_file" >"$RUN/answer" 2>"$RUN/said" && answered; then
                continue 2
            fi
            log "by $callback_sender: $(tail -n 1 "$RUN/said")"
        done
        return 1 # the later ones would not come through, either
    done
}

answered() { # whether the hub's answer is "ack N"; headers may stand before it
    while read -r answered_word answered_number _; do
        [ "$answered_word" = ack ] && acknowledged "$answered_number" && return 0
    done <"$RUN/answer"
    return 1
}

is_secure() {
    case $callback_url in https:*) [ -r "$PEM" ] ;; *) return 1 ;; esac
}

can_send() { # whether the guest has sender $1, and it can check a certificate
    case $1 in
    plain) ! is_secure && command -v bash >/dev/null 2>&1 && return 0 || return 1 ;;
    *) command -v "$1" >/dev/null 2>&1 || return 1 ;;
    esac
    is_secure || [ "$1" != openssl ] || return 1
    is_secure || return 0
    case $1 in
    wget) wget --help 2>&1 | grep -q -e --ca-certificate ;; # BusyBox's checks nothing
    openssl) openssl s_client -help 2>&1 | grep -q -e -verify_hostname ;;
    *) return 0 ;;
    esac
}

send() { # file $2 with sender $1; the answer goes to the standard output
    case $1 in
    curl) send_curl "$2" ;;
    wget) send_wget "$2" ;;
    python*) "$1" -c "$PYTHON" "$callback_url" "$PEM" "$2" ;;
    openssl) send_openssl "$2" ;;
    plain) send_plain "$2" ;;
    esac
}

send_curl() {
    set -- -q -s -S -f --max-time 15 --noproxy '*' -H 'Content-Type: application/json' -H 'Expect:' --data-binary "@$1"
    is_secure && set -- "$@" --proto '=https' --cacert "$PEM" --capath /nonexistent
    curl "$@" "$callback_url"
}

send_wget() {
    set -- -q -O - -T 15 -t 1 --no-proxy --header='Content-Type: application/json' --post-file="$1"
    is_secure && set -- "$@" --ca-certificate="$PEM" --ca-directory=/nonexistent
    : >"$RUN/wgetrc" # nothing of the guest's own settings; they may name a proxy
    WGETRC=$RUN/wgetrc wget "$@" "$callback_url"
}

request() { # of file $1 to path $CALLBACK_PATH
    printf 'POST %s HTTP/1.0\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n' \
        "$CALLBACK_PATH" "$CALLBACK_PLACE" "$(wc -c <"$1" | tr -d ' ')"
    cat "$1"
}

split_url() { # CALLBACK_PLACE (host and port), CALLBACK_HOST, CALLBACK_PORT and CALLBACK_PATH
    split_rest=${callback_url#*://}
    CALLBACK_PLACE=${split_rest%%/*}
    CALLBACK_PATH=/${split_rest#*/}
    CALLBACK_PORT=${CALLBACK_PLACE##*:}
    CALLBACK_HOST=${CALLBACK_PLACE%:*}
}

send_openssl() {
    split_url
    openssl_host=${CALLBACK_HOST#[[]}
    openssl_host=${openssl_host%[]]}
    case $openssl_host in
    *:*) openssl_check=-verify_ip ;;
    *[!0-9.]*) openssl_check=-verify_hostname ;;
    *) openssl_check=-verify_ip ;;
    esac
    request "$1" | openssl s_client -quiet -ign_eof -connect "$CALLBACK_PLACE" -CAfile "$PEM" -verify 4 \
        -verify_return_error "$openssl_check" "$openssl_host"
}

send_plain() { # plain HTTP: only where the hub was told to, in a lab
    split_url
    # shellcheck disable=SC2016 # the other shell's variables
    request "$1" | bash -c 'exec 3<>"/dev/tcp/$0/$1" && cat >&3 && cat <&3' "$CALLBACK_HOST" "$CALLBACK_PORT"
}
