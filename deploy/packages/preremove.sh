#!/bin/sh
# Before a removal, which deb calls "remove" and rpm 0, but not before an upgrade.
set -e
case "${1:-}" in
remove | 0) ;;
*) exit 0 ;;
esac
[ -d /run/systemd/system ] || exit 0
systemctl disable --now spendflush.service
